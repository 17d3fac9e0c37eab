/* See devices-nvme.h. Registers and commands: NVM Express Base Specification 1.4, sections 3 to 6. */
#include <errno.h>
#include <linux/vfio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices-nvme.h"
#include "devices.h"

enum {
    CAP = 0x00,
    CC = 0x14,
    CSTS = 0x1c,
    AQA = 0x24,
    ASQ = 0x28,
    ACQ = 0x30,
    DOORBELLS = 0x1000,
    CC_ENABLE = 1,
    CC_ENTRIES = 6 << 16 | 4 << 20, /* 64 and 16 bytes */
    CSTS_READY = 1,
    CSTS_FATAL = 2,

    ADMIN_CREATE_SQ = 0x01,
    ADMIN_CREATE_CQ = 0x05,
    ADMIN_IDENTIFY = 0x06,
    IO_WRITE = 0x01,
    IO_READ = 0x02,
    CONTIGUOUS = 1,
    IDENTIFY_NAMESPACE = 0,
    IDENTIFY_CONTROLLER = 1,
    NAMESPACE = 1,
    PRP_LIST = 4, /* pages of our memory */
    IDENTITY = 5,

    PCI_COMMAND_OFFSET = 4,
    PCI_COMMAND_MEMORY_MASTER = 2 | 4,
};

/* Registers are little-endian; so is this machine (as in testdev.c). */
static uint32_t get32(struct nvme *n, unsigned at) {
    return *(volatile uint32_t *)(n->bar + at);
}
static void put32(struct nvme *n, unsigned at, uint32_t value) {
    *(volatile uint32_t *)(n->bar + at) = value;
}
static void put64(struct nvme *n, unsigned at, uint64_t value) {
    put32(n, at, (uint32_t)value);
    put32(n, at + 4, (uint32_t)(value >> 32));
}

static int map_bar(struct nvme *n, int fd) {
    struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
    struct vfio_region_info bar = {.argsz = sizeof bar, .index = VFIO_PCI_BAR0_REGION_INDEX};
    uint16_t command;
    void *p;

    if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &config) < 0 || ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &bar) < 0)
        return -errno;
    if (pread(fd, &command, sizeof command, (off_t)config.offset + PCI_COMMAND_OFFSET) != sizeof command)
        return -EIO;
    command |= PCI_COMMAND_MEMORY_MASTER;
    if (pwrite(fd, &command, sizeof command, (off_t)config.offset + PCI_COMMAND_OFFSET) != sizeof command)
        return -EIO;
    p = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)bar.offset);
    if (p == MAP_FAILED)
        return -errno;
    n->bar = p;
    n->bar_size = bar.size;
    return 0;
}

static int wait_ready(struct nvme *n, uint32_t ready) {
    for (unsigned i = 0; i < NVME_TRIES; i++) {
        uint32_t status = get32(n, CSTS);

        if (status & CSTS_FATAL)
            return -EIO;
        if ((status & CSTS_READY) == ready)
            return 0;
        sleep_ms(NVME_MS);
    }
    return -ETIMEDOUT;
}

/* Sends one command and waits for its completion, which has its number and the other phase. */
static int run(struct nvme *n, struct nvme_queue *q, uint64_t command[8]) {
    volatile uint32_t *done = q->completions + 4 * (size_t)q->head;
    uint16_t number = ++n->next;

    command[0] |= (uint64_t)number << 16;
    memcpy(q->submissions + 8 * (size_t)q->tail, command, 64);
    q->tail = (q->tail + 1) % NVME_QUEUE;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    put32(n, DOORBELLS + 2 * q->id * n->stride, q->tail);
    for (unsigned i = 0; i < NVME_TRIES; i++) {
        uint32_t end = done[3];

        if ((end >> 16 & 1) == q->phase) {
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            q->head = (q->head + 1) % NVME_QUEUE;
            if (q->head == 0)
                q->phase ^= 1;
            put32(n, DOORBELLS + (2 * q->id + 1) * n->stride, q->head);
            return (end & 0xffff) == number ? (int)(end >> 17 & 0x7ff) : -EPROTO;
        }
        sleep_ms(NVME_MS);
    }
    return -ETIMEDOUT;
}

static uint64_t page_iova(const struct nvme *n, unsigned page) {
    return n->iova + (uint64_t)page * NVME_PAGE;
}

static int identify(struct nvme *n, uint32_t nsid, uint64_t what) {
    uint64_t c[8] = {ADMIN_IDENTIFY | (uint64_t)nsid << 32, 0, 0, page_iova(n, IDENTITY), 0, what};

    memset(n->memory + (size_t)IDENTITY * NVME_PAGE, 0, NVME_PAGE);
    return run(n, &n->admin, c);
}

static int make_queues(struct nvme *n) {
    const uint64_t size = (uint64_t)(NVME_QUEUE - 1) << 16 | 1; /* of queue 1 */
    uint64_t cq[8] = {ADMIN_CREATE_CQ, 0, 0, page_iova(n, 3), 0, size | (uint64_t)CONTIGUOUS << 32};
    uint64_t sq[8] = {ADMIN_CREATE_SQ, 0, 0, page_iova(n, 2), 0, size | (uint64_t)(CONTIGUOUS | 1 << 16) << 32};
    int r = run(n, &n->admin, cq);

    return r ? r : run(n, &n->admin, sq);
}

static struct nvme_queue queue(struct nvme *n, uint32_t id) {
    uint8_t *at = n->memory + (size_t)id * 2 * NVME_PAGE;

    return (struct nvme_queue){
        .submissions = (void *)at, .completions = (volatile void *)(at + NVME_PAGE), .id = id, .phase = 1};
}

int nvme_open(struct nvme *n, int fd, uint64_t iova, void *memory) {
    const uint8_t *told;
    int r;

    *n = (struct nvme){.iova = iova, .memory = memory};
    memset(memory, 0, (size_t)NVME_PAGES * NVME_PAGE);
    n->admin = queue(n, 0);
    n->io = queue(n, 1);
    r = map_bar(n, fd);
    if (r < 0)
        return r;
    n->stride = 4u << (get32(n, CAP + 4) & 0xf);
    put32(n, CC, 0);
    r = wait_ready(n, 0);
    if (r == 0) {
        put32(n, AQA, (NVME_QUEUE - 1) << 16 | (NVME_QUEUE - 1));
        put64(n, ASQ, page_iova(n, 0));
        put64(n, ACQ, page_iova(n, 1));
        put32(n, CC, CC_ENTRIES | CC_ENABLE);
        r = wait_ready(n, CSTS_READY);
    }
    told = n->memory + (size_t)IDENTITY * NVME_PAGE;
    if (r == 0 && (r = identify(n, 0, IDENTIFY_CONTROLLER)) == 0) {
        memcpy(n->serial, told + 4, 20);
        memcpy(n->model, told + 24, 40);
    }
    if (r == 0 && (r = identify(n, NAMESPACE, IDENTIFY_NAMESPACE)) == 0) {
        memcpy(&n->blocks, told, sizeof n->blocks);
        n->block = 1u << told[128 + 4 * (told[26] & 0xf) + 2];
    }
    if (r == 0)
        r = make_queues(n);
    if (r != 0)
        nvme_close(n);
    return r;
}

void nvme_close(struct nvme *n) {
    put32(n, CC, 0);
    wait_ready(n, 0);
    munmap((void *)n->bar, n->bar_size);
}

/* One page is in the command; two are too; of more all but the first are in the list. */
static int transfer(struct nvme *n, uint64_t opcode, uint64_t block, const uint64_t *iovas, size_t size) {
    size_t pages = (size + NVME_PAGE - 1) / NVME_PAGE;
    uint64_t *list = (void *)(n->memory + (size_t)PRP_LIST * NVME_PAGE);
    uint64_t c[8] = {opcode | (uint64_t)NAMESPACE << 32, 0, 0, iovas[0], 0, block, size / n->block - 1};

    if (size == 0 || size % n->block || pages > NVME_PAGE / sizeof *list)
        return -EINVAL;
    if (pages == 2)
        c[4] = iovas[1];
    if (pages > 2) {
        memcpy(list, iovas + 1, (pages - 1) * sizeof *list);
        c[4] = page_iova(n, PRP_LIST);
    }
    return run(n, &n->io, c);
}

int nvme_write(struct nvme *n, uint64_t block, const uint64_t *iovas, size_t size) {
    return transfer(n, IO_WRITE, block, iovas, size);
}

int nvme_read(struct nvme *n, uint64_t block, const uint64_t *iovas, size_t size) {
    return transfer(n, IO_READ, block, iovas, size);
}
