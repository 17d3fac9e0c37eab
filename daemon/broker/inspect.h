/* Pages of rows that the daemon makes itself. Private to inspect*.c.
 *
 * Rows are packed into one InspectReply as long as they fit a packet; `next` says where the next page begins. Devices are
 * paged by their place in the sorted list of addresses, sessions by number, accounts by the lowest number of their
 * sessions. */
#ifndef VB_BROKER_INSPECT_H
#define VB_BROKER_INSPECT_H

#include "broker/record.h"

struct vb_page {
    struct vb_arena *arena; /* the rows' memory; the question lies in it too */
    VfioBroker__InspectReply reply;
    size_t size; /* packed, so far */
};

/* True: a row of this packed size, and its header, has room. */
bool vb_page_room(struct vb_page *p, size_t n_rows, size_t packed);
/* A copy in the arena; "" when that is full. */
char *vb_page_keep(struct vb_page *p, const char *text);

/* An administrator sees all, others the sessions of their own uid. */
bool vb_inspect_may_see(const struct vb_record *asker, const struct vb_record *s);
/* The session with the lowest number above `after` that the asker may see. only: that one, or 0 for any. */
struct vb_record *vb_inspect_next(struct vb_record *asker, uint32_t only, uint64_t after);
int vb_inspect_refuse(const struct vb_record *asker, uint32_t session, struct vb_error *e);

/* Fills a page. 0, or an error for the asker. */
int vb_show_devices(struct vb_record *r, const VfioBroker__Inspect *q, struct vb_page *p, struct vb_error *e);
int vb_show_accounts(struct vb_record *r, const VfioBroker__Inspect *q, struct vb_page *p, struct vb_error *e);

#endif
