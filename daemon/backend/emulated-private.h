/* Shared by the files of the emulated backend only. */
#ifndef VB_BACKEND_EMULATED_PRIVATE_H
#define VB_BACKEND_EMULATED_PRIVATE_H

#include "backend/emulated-table.h"
#include "backend/emulated.h"

/* Closed devices that somebody still has open stay until they are closed. */
#define VB_EMULATED_DEVICES (4 * VB_DEVICES_MAX)

struct vb_emulated_memory {
    int fd; /* a dup of our own; -1: free slot */
    uint64_t size;
};

struct vb_emulated_space {
    struct vb_emulated_table table;
    uint32_t devices; /* attached */
};

struct vb_emulated_device {
    int fd; /* our end of the socket pair */
    char address[VB_ADDRESS_MAX + 1];
    bool bound, closed;
    struct vb_emulated_space *space; /* when attached */
};

/* Handles are indices. */
struct vb_emulated {
    struct vb_backend backend;
    struct vb_emulated_knobs knobs;
    struct vb_emulated_pool pool;
    struct vb_emulated_memory memories[VB_MEMORIES_MAX];
    struct vb_emulated_space *spaces[VB_SPACES_MAX];
    struct vb_emulated_device *devices[VB_EMULATED_DEVICES];
};

/* Counts one call; 0, or the error that it shall fail with, told in `e`. */
int vb_emulated_count(struct vb_emulated *em, enum vb_emulated_call call, struct vb_error *e);

extern const struct vb_range vb_emulated_msi;

/* emulated-device.c */
int vb_emulated_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret,
                            int *ret_client_fd, struct vb_error *e);
int vb_emulated_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e);
int vb_emulated_device_attach(struct vb_backend *b, vb_handle device, vb_handle space, struct vb_error *e);
int vb_emulated_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e);
void vb_emulated_device_close(struct vb_backend *b, vb_handle device);
bool vb_emulated_in_use(struct vb_backend *b, vb_handle device);
int vb_emulated_device_fd(struct vb_backend *b, vb_handle device);
uint32_t vb_emulated_devices_left(struct vb_backend *b);
void vb_emulated_device_free(struct vb_emulated *em, vb_handle device);

/* emulated-dma.c */
int vb_emulated_device_ready(struct vb_backend *b, vb_handle device);

#endif
