/* Shared by the files of the emulated backend only. */
#ifndef VB_BACKEND_EMULATED_PRIVATE_H
#define VB_BACKEND_EMULATED_PRIVATE_H

#include "backend/emulated-table.h"
#include "backend/emulated.h"

/* Closed devices that somebody still has open stay until they are closed. */
#define VB_EMULATED_DEVICES (4 * VB_DEVICES_MAX)
/* One for each space, and one for each device at most. */
#define VB_EMULATED_DOMAINS (VB_SPACES_MAX + VB_EMULATED_DEVICES)
#define VB_EMULATED_PAGE    4096u

struct vb_emulated_memory {
    int fd; /* a dup of our own; -1: free slot */
    uint64_t size;
};

/* A page table; with knobs.containers a container: then it exists as long as a device is in it or it is open. */
struct vb_emulated_domain {
    struct vb_emulated_table table;
    bool open;                 /* the model has it */
    uint32_t devices;          /* that translate with it */
    struct vb_space_info info; /* what these can use */
    bool dirty;                /* tracking is on */
    uint32_t n_needs;
    struct vb_range needs[VB_NEEDS_MAX];
};

struct vb_emulated_device {
    int fd; /* our end of the socket pair */
    char address[VB_ADDRESS_MAX + 1];
    struct vb_emulated_kind kind;
    bool bound, attached, closed;
    bool lost;                         /* it has left the host */
    struct vb_emulated_domain *domain; /* whose table translates: when attached; a container always */
};

/* Handles are indices. */
struct vb_emulated {
    struct vb_backend backend;
    struct vb_emulated_knobs knobs;
    struct vb_emulated_pool pool;
    struct vb_emulated_memory memories[VB_MEMORIES_MAX];
    struct vb_emulated_domain *domains[VB_EMULATED_DOMAINS];
    struct vb_emulated_device *devices[VB_EMULATED_DEVICES];
};

/* Counts one call; 0, or the error that it shall fail with, told in `e`. */
int vb_emulated_count(struct vb_emulated *em, enum vb_emulated_call call, struct vb_error *e);

/* emulated-kind.c */
const struct vb_emulated_kind *vb_emulated_kind_of(const struct vb_emulated *em, const char *address);
/* What a domain's devices can use, after one has come or gone. */
void vb_emulated_info(const struct vb_emulated *em, struct vb_emulated_domain *d);
/* VB_RESERVED: something that is mapped in the domain, or needed, is out of its reach. VB_UNSUPPORTED: it cannot take part in
 * dirty tracking. */
int vb_emulated_kind_check(struct vb_emulated_domain *to, const struct vb_emulated_device *d, struct vb_error *e);

/* emulated-domain.c */
int vb_emulated_domain_new(struct vb_emulated *em, vb_handle *ret, struct vb_error *e);
vb_handle vb_emulated_domain_of(struct vb_backend *b, vb_handle device);
int vb_emulated_domain_open(struct vb_backend *b, vb_handle device, vb_handle *ret, struct vb_error *e);
void vb_emulated_domain_close(struct vb_backend *b, vb_handle domain);
int vb_emulated_domain_info(struct vb_backend *b, vb_handle domain, struct vb_space_info *ret, struct vb_error *e);
void vb_emulated_domain_text(struct vb_backend *b, vb_handle domain, char *buf, size_t size);
int vb_emulated_domain_need(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n,
                            struct vb_error *e);
int vb_emulated_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n,
                    size_t *ret_done, struct vb_error *e);
int vb_emulated_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                      struct vb_error *e);
/* A device begins and ends to translate with it. */
void vb_emulated_join(struct vb_emulated *em, struct vb_emulated_device *d, struct vb_emulated_domain *domain);
void vb_emulated_leave(struct vb_emulated *em, struct vb_emulated_device *d);

/* emulated-dirty.c */
int vb_emulated_dirty_set(struct vb_backend *b, vb_handle domain, bool on, struct vb_dirty_info *ret,
                          struct vb_error *e);
int vb_emulated_dirty_read(struct vb_backend *b, vb_handle domain, struct vb_range range, uint64_t page, bool keep,
                           uint64_t *bitmap, struct vb_error *e);
/* Makes room for an entry's bits; they are set by _mark(). -ENOMEM. */
int vb_emulated_dirty_room(struct vb_emulated_entry *entry);
void vb_emulated_dirty_mark(struct vb_emulated_entry *entry, struct vb_range written);

/* emulated-device.c */
int vb_emulated_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret, int *ret_client_fd,
                            struct vb_error *e);
int vb_emulated_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e);
int vb_emulated_device_attach(struct vb_backend *b, vb_handle device, vb_handle domain, struct vb_error *e);
int vb_emulated_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e);
void vb_emulated_device_close(struct vb_backend *b, vb_handle device);
bool vb_emulated_in_use(struct vb_backend *b, vb_handle device);
int vb_emulated_device_fd(struct vb_backend *b, vb_handle device);
uint32_t vb_emulated_devices_left(struct vb_backend *b);
void vb_emulated_device_free(struct vb_emulated *em, vb_handle device);

/* emulated-dma.c */
int vb_emulated_device_ready(struct vb_backend *b, vb_handle device);

#endif
