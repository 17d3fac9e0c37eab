/* Between model-device.c and model-attach.c. */
#ifndef VB_CORE_ATTACH_H
#define VB_CORE_ATTACH_H

#include "core/model.h"

/* The backend has detached the device: its domain ends with its last device, unless it is an eager backend's first. */
void vb_model_detached(struct vb_model *m, struct vb_device *d);

#endif
