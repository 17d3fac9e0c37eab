/* libvfio-broker: DMA for programs without privilege.
 *
 * CONCEPTS
 *   A client is one connection to vfio-brokerd, served by a process of its own (its session). Through it a program
 *     - registers memory: a memfd, or a file on tmpfs or hugetlbfs, whose pages devices may reach;
 *     - creates spaces: one DMA address space each, what one guest bus (or one userspace driver) sees;
 *     - maps ranges of I/O virtual addresses (IOVAs) of a space to ranges of a memory, and unmaps them;
 *     - claims devices: gets the VFIO device fd, has it bound, and attaches it to a space;
 *     - lets other clients that emulate devices pin its memory by tokens, or does so itself: see "pins" below.
 *   The broker makes the kernel calls that need privilege or pin memory, within the limits that its policy grants and
 *   the client's own RLIMIT_MEMLOCK. The client drives the device through the fd by the ordinary VFIO device ioctls
 *   (regions, interrupts, reset): <linux/vfio.h>. It never holds an iommufd or a VFIO container.
 *
 *   The smallest program (errors left out):
 *
 *     struct vfb_client *c;        struct vfb_memory m;
 *     uint32_t space;              struct vfb_device d;
 *     vfb_client_new(&c);
 *     vfb_connect(c, NULL, "my driver");
 *     vfb_memory_register(c, memfd, VFB_WRITABLE, "buffers", &m);
 *     vfb_space_create(c, "bus 0", &space);
 *     struct vfb_map e = {.iova = 0x100000, .size = m.size, .memory = m.id, .prot = VFB_READ | VFB_WRITE};
 *     vfb_map(c, space, &e, 1);
 *     vfb_device_claim(c, "0000:00:04.0", &d);   // d.fd: here a VMM does KVM_DEV_VFIO_FILE_ADD
 *     vfb_device_bind(c, d.id);
 *     vfb_device_attach(c, d.id, space);         // from here the device reaches the memory at 0x100000
 *
 * LIFETIME
 *   Everything belongs to the connection. When the process that connected ends, or vfb_client_free() is called, mappings
 *   go away from all devices at once, even if another process still has a copy of a device fd. So connect after
 *   daemonising; a forked child cannot take the connection over. If vfio-brokerd itself stops or is upgraded, nothing of
 *   this changes: mapping goes on, and only what needs the daemon (claims, more lease) answers VFB_UNAVAILABLE meanwhile.
 *
 * ERRORS
 *   Every function returns 0, a negative errno when the host or the connection failed, or a positive enum vfb_code when
 *   the broker said no. vfb_error() tells the sentence and the details of the last failure on that client. A request
 *   that fails has changed nothing. Outputs are untouched on failure.
 *   A lost connection is -EPIPE for the calls that were under way and for every later one. Those under way get VFB_PROTOCOL
 *   instead if the other side talked nonsense, or the broker's own code if it said why it hung up.
 *
 * ORDER
 *   The broker carries requests out in the order made, except those that wait for somebody else: an unmap of memory that
 *   others have pinned, with what follows on the same range, the revoking of a token, and what asks another session
 *   (vfb_access_open(), vfb_pin(), vfb_unpin()). The replies of those come late, and later requests overtake them.
 *
 * THREADS
 *   One thread at a time may use a client. Different clients are independent. The library starts no thread, installs no
 *   signal handler, and does I/O only inside its calls.
 *
 * EVENT LOOPS
 *   Plain calls block until the reply is there, without a deadline (vfb_connect() has one): pinning hundreds of GiB takes
 *   its time. Who cannot wait for a broker that hangs uses the *_async calls. A VMM with a loop of its own watches vfb_fd()
 *   for vfb_events(), calls vfb_process() when it is ready, and uses the *_async calls, whose result arrives in a callback
 *   from vfb_process(). A plain call goes on calling callbacks and the event handler while it waits, and those may make
 *   plain calls themselves, whose replies may come before or after its own.
 *
 * SIZES are bytes. Ranges that come back are inclusive, first and last. */
#ifndef VFIO_BROKER_H
#define VFIO_BROKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VFB_SOCKET "/run/vfio-broker/broker.sock"
/* Environment variable that names another socket, for tests and development. */
#define VFB_SOCKET_ENV "VFIO_BROKER_SOCKET"

struct vfb_client;

/* ---- errors --------------------------------------------------------------------------------------------------- */

enum vfb_code {
    VFB_PROTOCOL = 2,     /* library and broker do not understand each other; the connection is closed */
    VFB_UNSUPPORTED = 3,  /* this broker, backend or kernel cannot do that */
    VFB_INVALID = 4,      /* an impossible number: alignment, overflow, size 0 */
    VFB_DENIED = 5,       /* policy does not grant it */
    VFB_NOT_FOUND = 6,    /* no such object of this client; nothing mapped there */
    VFB_LIMIT = 7,        /* a limit would be passed: wanted, used, limit, whose */
    VFB_OVERLAP = 8,      /* IOVAs are mapped already: conflicts */
    VFB_RESERVED = 9,     /* IOVAs that the space's devices cannot use: conflicts */
    VFB_BUSY = 10,        /* in use: mappings, attached devices, another claim, a holder */
    VFB_BAD_MEMORY = 11,  /* that fd is not memory that can be registered */
    VFB_STATE = 12,       /* wrong order of calls */
    VFB_UNAVAILABLE = 13, /* vfio-brokerd is away: try again later */
};

struct vfb_conflict {
    uint64_t first, last;           /* what was asked for, or is mapped */
    uint64_t with_first, with_last; /* what it runs into */
    const char *kind;               /* "mapping", "msi", "direct", "reserved", "aperture", "alignment", or new ones */
    const char *device;             /* address, or "" */
};

struct vfb_error {
    int code;                     /* what the call returned: negative errno or enum vfb_code; 0: nothing failed yet */
    int host_errno;               /* positive errno of the host when it failed behind the broker, else 0 */
    const char *text;             /* one sentence: object, numbers, way out */
    long entry;                   /* first failing entry of a batch, or -1 */
    uint64_t wanted, used, limit; /* with VFB_LIMIT */
    const char *limit_whose;      /* "RLIMIT_MEMLOCK of pid 812", or "" */
    const struct vfb_conflict *conflicts;
    size_t n_conflicts;
};

/* The last failure on this client; strings live until its next call. Never NULL. */
const struct vfb_error *vfb_error(const struct vfb_client *c);
/* "VFB_LIMIT", or the errno's name; never NULL. */
const char *vfb_code_name(int code);

/* ---- connection ----------------------------------------------------------------------------------------------- */

/* Allocates a client, not connected. -ENOMEM. */
int vfb_client_new(struct vfb_client **ret_client);
/* Connects and says hello; after a failure it may be called again. path: NULL for $VFIO_BROKER_SOCKET or else
 * VFB_SOCKET. name: for people who look at the broker ("qemu vm-12"), at most 63 printable characters; NULL for none.
 * Blocks until the session is there: a few ms, at most 10 s. -ENOENT or -ECONNREFUSED: no broker there; -ETIMEDOUT: it
 * accepts but does not answer; VFB_DENIED: policy grants nothing to this user. */
int vfb_connect(struct vfb_client *c, const char *path, const char *name);
/* Closes the connection: the broker takes everything back. Close device fds as well, else the devices stay held.
 * NULL is fine. */
void vfb_client_free(struct vfb_client *c);

enum vfb_feature {
    VFB_FEATURE_DMA = 1,         /* devices reach memory through a real IOMMU (not the emulated backend) */
    VFB_FEATURE_SHARED_PINS = 2, /* a page is paid once, in however many spaces */
    VFB_FEATURE_MAP_FILE = 4,    /* the kernel maps from the fd itself */
    VFB_FEATURE_ADMIN = 8,       /* may look at other sessions */
    VFB_FEATURE_PINS = 16,       /* tokens, accesses and pins */
    VFB_FEATURE_DMA_BUF = 32,    /* device memory can be registered: VFB_DMA_BUF */
    VFB_FEATURE_DOMAINS = 64,    /* the calls that say they need it; without it they are VFB_UNSUPPORTED */
};

struct vfb_info {
    uint32_t version;  /* of the protocol */
    uint64_t features; /* enum vfb_feature */
    uint32_t session;  /* number that vfio-brokerctl shows */
    const char *backend;
    const char *broker; /* version of vfio-brokerd */
    uint32_t batch_max, memories_max, spaces_max, devices_max;
    uint64_t mappings_max;
    uint64_t memory_bytes; /* limit when the session began */
};
/* What Hello told. Valid once connected, until vfb_client_free(). */
const struct vfb_info *vfb_info(const struct vfb_client *c);

/* ---- memory --------------------------------------------------------------------------------------------------- */

enum vfb_memory_flags {
    VFB_WRITABLE = 1,    /* devices may write: O_RDWR fd without write seals */
    VFB_NO_POPULATE = 2, /* the caller has populated it already (holes are refused by the broker) */
    VFB_DMA_BUF = 4,     /* a dma-buf that vfio-pci exports (VFIO_DEVICE_FEATURE_DMA_BUF): device memory, for P2P */
};
struct vfb_memory {
    uint32_t id;
    uint64_t size;
    uint64_t page_size; /* of the file system: alignment of nothing, but huge pages make mapping cheap */
};
/* Registers the whole file behind `fd` (borrowed; may be closed afterwards). The library first touches every page
 * (MADV_POPULATE_WRITE, or READ when not writable, in pieces), so that they are charged to this process's cgroup and not
 * to the broker's; contents are kept. Costs no RLIMIT_MEMLOCK yet.
 * While it is registered, F_SEAL_WRITE cannot be added to a writable one. A file that is registered already with the same
 * access (VFB_WRITABLE or not) is found again, by device and inode: same id, to be unregistered as often as registered.
 * VFB_BAD_MEMORY: not a memfd/tmpfs/hugetlbfs file, read-only, sealed, size 0, holes.
 * With VFB_DMA_BUF: its size is asked from the fd (lseek(2)), and nothing is touched, pinned or paid. Mapped as any other memory; devices of
 * the space then reach the exporting device's registers or memory (peer to peer). When that device takes it back (it is
 * reset, its memory is disabled, or it is closed) nobody reaches it any more; the mappings stay, and lead nowhere, until
 * they are unmapped. VFB_UNSUPPORTED without VFB_FEATURE_DMA_BUF: Linux 6.19 and the iommufd backend. */
int vfb_memory_register(struct vfb_client *c, int fd, unsigned flags, const char *name, struct vfb_memory *ret_memory);
/* VFB_BUSY while mappings of it exist. */
int vfb_memory_unregister(struct vfb_client *c, uint32_t memory);

/* ---- spaces --------------------------------------------------------------------------------------------------- */

struct vfb_range {
    uint64_t first, last;
};
struct vfb_space_info {
    uint64_t page_sizes; /* bit n: 1<<n bytes can be mapped; the lowest is the alignment of IOVA, offset and size */
    uint64_t mappings, mappings_max; /* in this space; in all spaces of this client */
    uint64_t mapped_bytes;
    size_t n_usable;
    struct vfb_range usable[64]; /* IOVA ranges that all attached devices can use, but for those that leave out */
    bool dirty;                  /* dirty tracking is on */
};
int vfb_space_create(struct vfb_client *c, const char *name, uint32_t *ret_space);
/* Its mappings go with it. VFB_BUSY while devices are attached. */
int vfb_space_destroy(struct vfb_client *c, uint32_t space);
int vfb_space_describe(struct vfb_client *c, uint32_t space, struct vfb_space_info *ret_info);
/* Says which IOVAs the space will need, before anything is mapped there: devices that reserve any of them are refused from now
 * on (VFB_RESERVED at attach), instead of later maps. At most 16 ranges, in place of those said before; n 0: none.
 * VFB_RESERVED: a device that is attached, and does not leave out, cannot use them. Needs VFB_FEATURE_DOMAINS. */
int vfb_space_need(struct vfb_client *c, uint32_t space, const struct vfb_range *ranges, size_t n);

/* ---- mappings ------------------------------------------------------------------------------------------------- */

enum vfb_prot { VFB_READ = 1, VFB_WRITE = 2 };
struct vfb_map {
    uint64_t iova, size, offset; /* offset in the memory */
    uint32_t memory;
    uint32_t prot; /* VFB_READ at least */
};
struct vfb_unmap {
    uint64_t iova, size; /* covers one or more whole mappings; cutting one is VFB_INVALID */
};
/* All entries or none. n <= vfb_info()->batch_max. Pages are paid against the lease here, whether a device is attached
 * or not. Devices of the space reach them when the call returns. Nothing is replaced: VFB_OVERLAP. */
int vfb_map(struct vfb_client *c, uint32_t space, const struct vfb_map *entries, size_t n);
/* All entries or none; an entry in which nothing is mapped is VFB_NOT_FOUND. When the call returns, no device reaches
 * the memory through these IOVAs any more. ret_bytes may be NULL. */
int vfb_unmap(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, uint64_t *ret_bytes);
/* Everything in the space; nothing there is fine. */
int vfb_unmap_all(struct vfb_client *c, uint32_t space, uint64_t *ret_bytes);

/* Discard, for balloons and virtio-mem. fallocate(FALLOC_FL_PUNCH_HOLE) on mapped memory does not do what it seems: the pages
 * are pinned, so devices go on reading and writing the OLD ones, while every process that maps the file sees fresh zeros,
 * and the memory is not freed. So this takes the mappings away from all devices, calls punch(arg), and maps them again. In
 * punch the caller punches, and populates again what it leaves mapped (MADV_POPULATE_WRITE; holes are refused). Devices
 * must not need the range meanwhile: their accesses fault. The ranges stay taken and paid in between, so mapping again
 * cannot fail for a limit or because another took the place.
 * n <= vfb_info()->batch_max, whole mappings as in vfb_unmap(): what shall be discarded piece by piece has to be mapped in such
 * pieces. punch returns 0, or a negative errno, which this returns after having forgotten the mappings, as an unmap would. It
 * may make other calls on this client, but no discard (VFB_STATE). Pins of others are waited for as by vfb_unmap().
 * A failure before punch was called has changed nothing; after it (VFB_BAD_MEMORY: holes) the mappings are gone, and
 * vfb_error() says so. Needs VFB_FEATURE_DOMAINS. */
typedef int (*vfb_punch_fn)(void *arg);
int vfb_discard(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, vfb_punch_fn punch,
                void *arg);

/* ---- devices -------------------------------------------------------------------------------------------------- */

struct vfb_device {
    uint32_t id;
    int fd; /* owned by the caller; a VFIO device (cdev) fd */
};
/* Claims a device by address ("0000:00:04.0") with its whole IOMMU group. The fd is not bound to an IOMMU context yet, so
 * VFIO ioctls on it fail until vfb_device_bind(); a VMM adds it to kvm-vfio in between. Take fd->close seriously: as long
 * as any process has a copy open, nobody else can have the device.
 * VFB_DENIED: not granted; VFB_BUSY: claimed or still held, by whom; VFB_NOT_FOUND, VFB_UNSUPPORTED: not there, not bound
 * to vfio-pci (see vfio-brokerctl bind). */
int vfb_device_claim(struct vfb_client *c, const char *address, struct vfb_device *ret_device);
/* The same, and says for which space. It matters on type1 (vfb_info()->backend), where a device's DMA goes through a VFIO
 * container that is chosen at the claim: by default each IOMMU group has one of its own, and a second device in a space
 * makes the kernel pin, and the limit count, all of the space's memory once more. Devices claimed for one space share one
 * container, and it is pinned once. The price: such a device reaches the space's mappings from the claim on, and a detach of
 * one takes effect when the last of them is detached or released. VFB_RESERVED: the space has mappings that the device
 * cannot reach. On other backends this is vfb_device_claim(). Needs VFB_FEATURE_DOMAINS. */
int vfb_device_claim_for(struct vfb_client *c, const char *address, uint32_t space, struct vfb_device *ret_device);
int vfb_device_bind(struct vfb_client *c, uint32_t device);
/* The device sees the space's mappings from now on. VFB_RESERVED lists mappings that collide with its reserved regions. */
int vfb_device_attach(struct vfb_client *c, uint32_t device, uint32_t space);
/* The same, but mappings that the device cannot reach are left out for it alone, now and later, instead of being refused:
 * accesses of this device to them fault, and it does not narrow what can be mapped. ret_left_out (may be NULL): how many.
 * conflicts (may be NULL): room for max; the first of them, at most 16, *ret_n (may be NULL). Their strings live until the next
 * call of this function. Which outcome a device has does not depend on what was attached or mapped first. Needs
 * VFB_FEATURE_DOMAINS. */
int vfb_device_attach_leaving_out(struct vfb_client *c, uint32_t device, uint32_t space, uint64_t *ret_left_out,
                                  struct vfb_conflict *conflicts, size_t max, size_t *ret_n);
int vfb_device_detach(struct vfb_client *c, uint32_t device);
/* Detaches if need be, and gives the device back; it is free for others when all copies of the fd are closed. */
int vfb_device_release(struct vfb_client *c, uint32_t device);

/* ---- dirty tracking: what devices have written ------------------------------------------------------------------ */

struct vfb_dirty_info {
    uint64_t page_size; /* bytes: the smallest that vfb_dirty_read() tells apart */
    bool coarse;        /* every mapped page counts as written: type1, where the IOMMU does not tell */
};
/* Begins, for all devices of the space, from a clean state. Devices that attach while it is on must be able to take part.
 * Nothing is lost: where the bits themselves go, by a detach or a discard, all of the mappings counts as written until it is
 * read. VFB_UNSUPPORTED names the device whose IOMMU cannot; VFB_STATE: no device is attached, or it is on
 * already. ret_info may be NULL. Needs VFB_FEATURE_DOMAINS. */
int vfb_dirty_start(struct vfb_client *c, uint32_t space, struct vfb_dirty_info *ret_info);
int vfb_dirty_stop(struct vfb_client *c, uint32_t space);
enum vfb_dirty_flags {
    VFB_DIRTY_KEEP = 1,  /* do not clear what is read */
    VFB_DIRTY_UNMAP = 2, /* then unmap the range: nothing is lost that was written before its devices were quiet */
};
/* Sets bits for what was written since they were cleared last; sets only, so several reads add up, and a read that fails has
 * lost nothing. bitmap: size / page_size bits, in 64-bit words of this machine, bit n of word n/64 being 1 << (n % 64) for the
 * page at iova + n * page_size; others in those words stay. page_size: that of vfb_dirty_start(), or a larger power of two if
 * the backend can and all mappings in the range are multiples of it. iova and size: multiples of page_size, cutting no
 * mapping (VFB_INVALID); holes are fine.
 * A range of more than 2^24 pages (64 GiB of 4 KiB) takes several requests, cut between mappings: one that has more pages itself
 * is VFB_INVALID. When a later request fails the earlier ones have been done: their bits are set, and with UNMAP their
 * mappings gone; repeat the call. The first read keeps a memfd of as many bits as its largest request, 2 MiB at most.
 * VFB_STATE: not started; with UNMAP also VFB_NOT_FOUND: nothing is mapped, VFB_BUSY: pinned.
 * ret_pages may be NULL: bits that this call found. */
int vfb_dirty_read(struct vfb_client *c, uint32_t space, uint64_t iova, uint64_t size, uint64_t page_size,
                   unsigned flags, uint64_t *bitmap, uint64_t *ret_pages);

/* ---- pins: software devices ----------------------------------------------------------------------------------- */

/* A program that emulates a device (a vfio-user server, a vhost-user back end) reaches the memory of another client's
 * space through pins. The owner of the space makes a token and hands its secret over, by whatever way the two have; the
 * other opens an access with it and pins IOVA ranges. A pin gives it the fds of the memories behind the range, to
 * mmap(2), and promises that the mapping and the pages stay until it is unpinned or lost. The owner pays for pinned
 * pages, once with what is mapped, and its session keeps them resident by mlock (VmLck; hugetlb needs none).
 *
 * When the owner unmaps, pinners get VFB_EVENT_INVALIDATE and have to stop using the range and call vfb_unpin(); the
 * owner's vfb_unmap() waits for that, for at most 2 seconds from the writing of the event; then the pins are taken away
 * and the pinner gets VFB_EVENT_PINS_LOST. Both events arrive in blocking calls too, so two clients that pin in each
 * other and unmap at the same time do not wait for each other, if their handlers unpin. A pinner without a handler, or
 * that makes no calls for so long, loses its pins without a word: it watches vfb_fd().
 *
 *   owner:   vfb_token_create(c, space, 0, (1ull << 32) - 1, "disk 0", &t);     // then writes t.secret to the pinner
 *   pinner:  vfb_set_event_handler(c, on_event, NULL);
 *            vfb_access_open(c, secret, &a);
 *            struct vfb_pin_range r = {.iova = 0x100000, .size = 0x2000, .prot = VFB_READ | VFB_WRITE};
 *            vfb_pin(c, a.id, &r, 1, &pin);
 *            for (i = 0; i < pin.n_segments; i++)       // mmap(2) wants offsets of whole pages: round down
 *                ... mmap(NULL, ..., MAP_SHARED, pin.segments[i].fd, pin.segments[i].offset) ...
 *   in its handler, for VFB_EVENT_INVALIDATE: munmap(2) what belongs to e->pins, then
 *            vfb_unpin(c, e->access, e->pins, e->n_pins);
 *
 * WHAT A TOKEN CANNOT TAKE BACK: the memories' fds. They are the owner's own, with the access that they were opened with,
 * for the whole file and not only the range: a pinner can keep them mapped for ever, and a memfd that was passed read-only
 * can be opened again for writing (/proc/self/fd). Give a token to nobody who must not have that.
 * WHAT A PIN DOES NOT PROMISE: the owner can punch holes into its own file, or truncate it; then the pinner reads zeros, or
 * gets SIGBUS (mmap(2)), as with any file that is shared.
 *
 * Without VFB_FEATURE_PINS in vfb_info()->features all of this is VFB_UNSUPPORTED. */

#define VFB_TOKEN_SIZE 40 /* bytes of a secret */
struct vfb_token {
    uint32_t id; /* for vfb_token_revoke() */
    uint8_t secret[VFB_TOKEN_SIZE];
    char warning[400]; /* what it cannot take back, as a sentence */
};
/* A token for the IOVAs [first, last] of a space, bytes, mapped or not; more of them may be mapped later. `name` is for
 * people, at most 63 printable characters, or NULL. Whoever has the secret can open accesses, also several, until the token
 * is revoked or this client ends. VFB_NOT_FOUND: no such space; VFB_LIMIT: 64 tokens. */
int vfb_token_create(struct vfb_client *c, uint32_t space, uint64_t first, uint64_t last, const char *name,
                     struct vfb_token *ret_token);
/* No access can be opened with it any more; those that exist lose their pins as by vfb_unmap(), then end. Waits for that
 * as vfb_unmap() does. The mappings stay. VFB_NOT_FOUND: no such token. */
int vfb_token_revoke(struct vfb_client *c, uint32_t token);

struct vfb_access {
    uint32_t id;
    struct vfb_range range; /* IOVAs that can be pinned */
    char name[64];          /* the token's */
    char warning[400];      /* as in struct vfb_token */
};
/* secret: the VFB_TOKEN_SIZE bytes that the owner told; borrowed. An access ends by vfb_access_close(), with
 * VFB_EVENT_PINS_LOST and `closed` when its token is revoked or its owner ends, or with this client.
 * VFB_DENIED: no such token (any more), or its owner is gone; VFB_LIMIT: 64 accesses are open; VFB_UNAVAILABLE: the
 * owner's session does not answer, or vfio-brokerd is away, which has to find it. */
int vfb_access_open(struct vfb_client *c, const uint8_t secret[VFB_TOKEN_SIZE], struct vfb_access *ret_access);
/* Its pins end, and the library closes the fds that vfb_pin() told of; what was mapped from them stays mapped. Events
 * about it are not delivered any more. VFB_NOT_FOUND: no such access (any more). */
int vfb_access_close(struct vfb_client *c, uint32_t access);

struct vfb_pin_range {
    uint64_t iova, size; /* bytes; any range that is mapped without a gap */
    uint32_t prot;       /* VFB_READ, or VFB_READ | VFB_WRITE */
};
#define VFB_PIN_SEGMENTS 16
struct vfb_segment {
    uint64_t iova, size;
    uint64_t offset; /* in the file; mmap(2) wants whole pages, of hugetlbfs its own (st_blksize of fstat(2)) */
    int fd; /* of the memory: the library's own, until the access has ended; dup(2) to keep it. Never close it */
};
struct vfb_pin {
    uint32_t id; /* of its access */
    uint32_t n_segments;
    struct vfb_segment segments[VFB_PIN_SEGMENTS]; /* ascending, without gaps */
};
/* Pins 1 to 64 ranges, all or none. ret_pins: room for n, filled in the order of the ranges. The fds in it stay open as
 * long as the access, if the connection is lost until vfb_client_free(), and are the same in all pins of one memory.
 * A handler that runs meanwhile and makes calls may hear of pins that this call is just about to return: it unpins them as
 * any others, and the caller, who is told of them all the same, must not use them. Let it note what it hears meanwhile.
 * VFB_NOT_FOUND: not mapped, or no such access (any more); VFB_DENIED: outside the token's range, or more than what is
 * mapped permits; VFB_LIMIT: the owner's memory limit, more than 256 MiB in one call (huge pages aside) or 4096 pins on the
 * owner, more than 16 mappings in one range, more than 16 memories that this
 * access has not seen yet in one call (pin fewer ranges), or 256 that it has seen in its life (open another);
 * VFB_BUSY: it is being unmapped. vfb_error()->entry: which range. */
int vfb_pin(struct vfb_client *c, uint32_t access, const struct vfb_pin_range *ranges, size_t n,
            struct vfb_pin *ret_pins);
/* 1 to 64 pins. From here on the owner may unmap the pages, and they may go. Those that are no pins any more are passed over,
 * since an event can name pins that were unpinned or lost while it was under way; VFB_NOT_FOUND: none of them is one. */
int vfb_unpin(struct vfb_client *c, uint32_t access, const uint32_t *pins, size_t n);

/* ---- looking -------------------------------------------------------------------------------------------------- */

struct vfb_usage {
    uint64_t limit, lease, used,
        mapped; /* bytes: may be pinned, leased to this session, paid, mapped (aliases counted) */
    uint64_t mappings, mappings_max;
    uint32_t memories, spaces, devices;
    char limit_whose[96];
    uint64_t mapped_paid, pinned_paid; /* bytes of `used`: under mappings; under pins of others alone */
    uint64_t doubled;                  /* bytes under both: paid once, but twice in the session's VmLck */
    uint64_t tables, tables_max;       /* bytes: page tables and kernel objects, by estimate, and their bound */
    uint32_t tokens, pins, accesses, parked;
};
int vfb_usage(struct vfb_client *c, struct vfb_usage *ret_usage);

/* A device that policy grants to this client (for administrators: every VFIO-capable device). */
struct vfb_device_info {
    char address[64], driver[32];
    uint16_t vendor, device;
    int group;        /* IOMMU group, -1 for none */
    char state[16];   /* "free", "claimed", "held", "unusable" */
    char reason[400]; /* why unusable, and what to do */
    uint32_t session; /* that has it, or 0 */
};
/* ret_devices: free() it. */
int vfb_device_list(struct vfb_client *c, struct vfb_device_info **ret_devices, size_t *ret_n);

/* ---- event loops ---------------------------------------------------------------------------------------------- */

/* The fd to watch; -1 before vfb_connect(). It stays the same until vfb_client_free(): after a loss poll(2) shows it
 * readable for ever, so that a loop which was not told calls vfb_process() and learns it. */
int vfb_fd(const struct vfb_client *c);
/* POLLIN, and POLLOUT while something waits to be sent (poll(2)). */
short vfb_events(const struct vfb_client *c);
/* Does what is possible without blocking: sends, receives, calls callbacks. 0, or -EPIPE: the connection is gone, every
 * pending callback has been called. Callbacks may make calls on the client, but not free it. */
int vfb_process(struct vfb_client *c);

/* result: as the blocking call returns; vfb_error(c) tells more during the callback. */
typedef void (*vfb_done_fn)(struct vfb_client *c, int result, void *arg);
/* 0: sent or queued, `done` will be called once from vfb_process() or from a later blocking call. Entries are copied.
 * -EAGAIN: too many unanswered (64). The order is that of ORDER above; callbacks come in the order of the replies. */
int vfb_map_async(struct vfb_client *c, uint32_t space, const struct vfb_map *entries, size_t n, vfb_done_fn done,
                  void *arg);
int vfb_unmap_async(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, vfb_done_fn done,
                    void *arg);
int vfb_device_attach_async(struct vfb_client *c, uint32_t device, uint32_t space, vfb_done_fn done, void *arg);
int vfb_device_detach_async(struct vfb_client *c, uint32_t device, vfb_done_fn done, void *arg);
int vfb_unpin_async(struct vfb_client *c, uint32_t access, const uint32_t *pins, size_t n, vfb_done_fn done, void *arg);

enum vfb_event_kind {
    VFB_EVENT_DEVICE_GONE = 1, /* device: the id, dead now: it left the host, and was released */
    VFB_EVENT_CLOSING = 2,     /* text: why; the connection ends */
    VFB_EVENT_INVALIDATE = 3,  /* access, pins: stop using them and unpin, within deadline_ms of its writing */
    VFB_EVENT_PINS_LOST = 4, /* access, pins: gone; text: why; closed: the access too, with all that it had (its fds are
                                * closed when the handler has returned) */
    VFB_EVENT_DEVICE_REQUESTED = 5, /* device: the host wants it back; release it, and close all copies of its fd */
    VFB_EVENT_PROGRESS = 6, /* device: its attach is under way, done of total bytes are mapped; about twice a second */
};
struct vfb_event {
    enum vfb_event_kind kind;
    uint32_t device;
    const char *text;
    uint32_t access;
    const uint32_t *pins; /* during the call, also while it makes others */
    size_t n_pins;        /* at most 64, what vfb_unpin() takes; of more the handler is called again */
    uint32_t deadline_ms; /* milliseconds, from when the owner's session wrote it */
    bool closed;
    uint64_t done, total; /* bytes, with VFB_EVENT_PROGRESS */
};
typedef void (*vfb_event_fn)(struct vfb_client *c, const struct vfb_event *event, void *arg);
/* Called from vfb_process() or from a blocking call, by the thread that makes it. It may make calls on the client, but not
 * free it; a blocking one calls the handler again for events that come meanwhile, at most 63 deep: further ones wait.
 * NULL: events are dropped. The event, and what it points to, is gone when the handler returns. */
void vfb_set_event_handler(struct vfb_client *c, vfb_event_fn fn, void *arg);

#ifdef __cplusplus
}
#endif
#endif
