/* Between the parts of the device register: register.c claims, register-host.c what the host has, register-open.c opening,
 * register-holders.c who has it open. */
#ifndef VB_BROKER_REGISTER_PRIVATE_H
#define VB_BROKER_REGISTER_PRIVATE_H

#include "broker/register.h"

/* ---- register-host.c ---- */
/* 0, VB_NOT_FOUND or a negative errno. */
int vb_register_read(struct vb_register *r, const char *address, struct vb_host_device *ret, struct vb_error *e);
/* Can a client use it, whoever claims it? 0, or VB_STATE with the reason and the way out. */
int vb_register_usable(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e);

/* ---- register-open.c ---- */
/* What a claim of it gives: ret_group on type1, new or one that the session has; else NULL. */
int vb_register_open(struct vb_register *r, const struct vb_host_device *p, uint32_t session, const char *with,
                     struct vb_opened *o, struct vb_group **ret_group, struct vb_error *e);
/* No claim needs it any more. */
void vb_register_end_group(struct vb_register *r, struct vb_group *g);

/* ---- register-holders.c ---- */
/* Looks who has a held device open, if that was not done just now, into c->holders. */
void vb_register_holders(struct vb_register *r, struct vb_claim *c);
/* VB_BUSY: somebody else has the group open, or a device of it. */
int vb_register_refuse_open(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e);

#endif
