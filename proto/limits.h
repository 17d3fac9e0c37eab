/* Every bound of vfio-broker in one place. A client can reach each of them and must find a clear answer there.
 *
 * Sizes are bytes, times are milliseconds unless the name says otherwise. What policy can lower or raise is marked; the
 * rest is fixed, since buffers and decoders are sized by it. */
#ifndef VB_LIMITS_H
#define VB_LIMITS_H

/* ---- wire ---- */
#define VB_PROTOCOL_VERSION 1u
#define VB_PACKET_MAX       65536u  /* one packet, either direction; below net.core.wmem_default (212992) */
#define VB_PACKET_FDS       16u     /* room for fds in one packet; no request carries more than one */
#define VB_BATCH_MAX        1024u   /* entries of one Map or Unmap: 34 bytes each on the wire */
#define VB_DECODE_MAX       524288u /* what one packet may decode into; twice the worst batch */
#define VB_NAME_MAX         63u     /* names that clients give to things */
#define VB_ADDRESS_MAX      63u     /* a device address */
#define VB_ERROR_TEXT       400u    /* the sentence of an error, with its final 0 */
#define VB_CONFLICTS_MAX    16u     /* listed in one error */
#define VB_REGIONS_MAX      64u     /* reserved regions of a device, usable ranges of a space */
#define VB_INSPECT_ROWS     256u    /* rows of one Inspect page: 256 mapping rows are 11 KiB */
#define VB_EVENTS_MAX       32u     /* events that wait for a client that does not read; then it is disconnected */

/* ---- objects of one session ---- */
#define VB_MEMORIES_MAX     256u /* each has 1<<55 bytes of the pool: see backend/iommufd.c */
#define VB_MEMORY_SIZE_MAX  (1ull << 50)
#define VB_SPACES_MAX       64u
#define VB_DEVICES_MAX      64u
#define VB_MAPPINGS_DEFAULT 65536u   /* policy: "mappings" */
#define VB_MAPPINGS_MAX     4194304u /* policy cannot grant more: 80 bytes each in us, about 200 in the kernel */
#define VB_IOMMUFD_IDS      4096u /* object ids of one iommufd context: IOAS, HWPT and device objects of the limits above */

#define VB_NEEDS_MAX       16u           /* ranges that a space says it will need */
#define VB_REPLAY_CHUNK    (16ull << 30) /* a larger mapping is replayed in such pieces, so that progress can be told */
#define VB_DIRTY_PAGES_MAX (16u << 20)   /* pages of one DirtyRead: a bitmap of 2 MiB */

#define VB_REGISTERED_MAX 65536u /* registrations of one file with one access */
#define VB_TOKENS_MAX     64u
#define VB_TOKEN_SIZE     40u    /* bytes of a token's secret: 4 name the session, 4 the token, 32 are random */
#define VB_ACCESSES_MAX   64u    /* of others to one session, and of one session to others */
#define VB_PINS_MAX       4096u  /* of others on one session */
#define VB_PIN_PARTS_MAX  16384u /* mappings under all pins: each locked run costs up to two VMAs (vm.max_map_count) */
/* That one Pin makes the owner's session lock; hugetlb needs no lock. A GiB of 4 KiB pages takes 125 ms, and 130 to unlock (measured
 * on two cores of a virtual machine). */
#define VB_PIN_BYTES    (256ull << 20)
#define VB_PIN_BATCH    64u /* entries of one Pin */
#define VB_PIN_SEGMENTS 16u /* mappings that one pin may touch */
#define VB_PARKED_MAX   64u /* requests that wait for somebody else; as many as the library sends */

/* ---- the ledger ---- */
#define VB_LEASE_SLACK   (64ull << 20) /* a session wishes for that much more than it needs */
#define VB_LEASE_IDLE_MS 2000          /* and gives back what was idle for so long */
#define VB_DOUBLED_SLACK (16ull << 20) /* and for that much more, or an eighth, than pins make the kernel count twice */
#define VB_RECLAIM_MS    500           /* other sessions of an account have that long to give back */
#define VB_TABLES_BASE   (64ull << 20) /* tables_max, unless policy says more: this, and the limit / 32 */
#define VB_INVALIDATE_MS 2000          /* a pinner has that long to unpin */

/* ---- daemon ---- */
#define VB_SESSIONS_DEFAULT  16u   /* of one uid; policy: "sessions" */
#define VB_SESSIONS_MAX      4096u /* of all */
#define VB_BACKLOG           1024  /* listen(2) */
#define VB_CALLS_PER_SECOND  512u  /* of one session to the daemon; beyond, it is read again in the next second */
#define VB_POLICY_SIZE_MAX   1048576u
#define VB_GRANTS_MAX        1024u
#define VB_GRANT_DEVICES_MAX 256u

/* ---- times ---- */
#define VB_HELLO_MS           10000 /* a connection without Hello ends */
#define VB_CALL_MS            5000  /* a session waits for the daemon */
#define VB_ASK_MS             1000  /* the daemon waits for a session's rows */
#define VB_RECONNECT_FIRST_MS 50    /* a session looks for the next daemon, doubling up to: */
#define VB_RECONNECT_LAST_MS  1000
#define VB_ADOPT_GRACE_MS     3000 /* after a start, sessions have that long to come back */
#define VB_HELD_POLL_FIRST_MS 10   /* how often a session looks whether released devices are closed, doubling up to: */
#define VB_HELD_POLL_MS       250

/* ---- session processes ---- */
#define VB_SESSION_UID_FIRST 1999900000u /* unused by systemd's and Debian's uid plans */
#define VB_SESSION_UID_COUNT 65536u
#define VB_SESSION_THREADS   4u    /* of one process: its own and three that help to pin */
#define VB_SESSION_NOFILE    2048u /* 16 under way on each pin link; 16 that are no memory from each access */

#endif
