/* The command line of vfio-brokerd. */
#ifndef VB_BROKER_OPTIONS_H
#define VB_BROKER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* type1: VFIO containers and groups. type1-compat: the same with iommufds as containers, for kernels that have iommufd but no
 * device cdevs. */
enum vb_backend_choice {
    VB_BACKEND_AUTO,
    VB_BACKEND_IOMMUFD,
    VB_BACKEND_TYPE1,
    VB_BACKEND_TYPE1_COMPAT,
    VB_BACKEND_EMULATED
};

struct vb_options {
    bool session;       /* --session: be a session process; nothing else counts */
    const char *socket; /* NULL: broker.sock in the runtime directory */
    const char *runtime_dir;
    const char *policy;
    const char *cgroup; /* auto, none or a directory: cgroup.h */
    bool release_cgroup;
    enum vb_backend_choice backend;
    uint32_t emulated_devices;
    uint32_t uid_first, uid_count; /* of session processes; count 0: our own uid */
    uint64_t test_lie;             /* test hooks only: sessions believe in this many bytes more than they have */
    bool test_no_map_file;         /* test hooks only */
    const char *sys, *dev, *proc;  /* roots of the host; not on the command line */
};

/* -1: go on; else the exit status with which to end now (--help, --version, mistakes). */
int vb_options_parse(int argc, char **argv, struct vb_options *ret);

#endif
