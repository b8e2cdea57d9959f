/* A small libnvidia-ml.so.1 for tests: it answers what the file $FAKE_NVML says.
 *
 * One fact a line, "name value"; `gpu` begins a GPU, `mig` an instance of the GPU before it, and what follows
 * belongs to the last of either. `fail_CALL CODE` makes a call about it end with an NVML error. Structures are as
 * NVML's documentation gives them. Compiled with -DOLD it lacks what drivers before R510 lack.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, VERSION = 25 };
enum { GPUS = 16, INSTANCES = 7, PROCESSES = 16, LINKS = 18, FAULTS = 16 };

typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned long long total, free, used; } MemoryV1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned version, value; } Addressing;

typedef struct Device {
    struct Device *parent;
    char name[96], uuid[96];
    unsigned bus;
    int major, minor;
    unsigned long long total, reserved, used, energy;
    unsigned power, ats, mig, gpu_instance, compute_instance;
    int links[LINKS], link_count; /* -1: to a switch, -2: down, else the other GPU's bus number */
    unsigned p2p;
    Process compute[PROCESSES], graphics[PROCESSES];
    unsigned computes, drawers;
    struct { char call[24]; int code; } faults[FAULTS];
    unsigned fault_count;
    struct Device *instances[INSTANCES];
    unsigned instance_count;
} Device;

static Device devices[GPUS * (INSTANCES + 1)];
static Device *gpus[GPUS];
static unsigned gpu_count, device_count;
static char driver[80] = "575.57.08";
static int fail_init, fail_count;
static unsigned hang_s;

static Device *new_device(Device *parent) {
    Device *made = &devices[device_count++];
    made->parent = parent;
    return made;
}

static void read_fact(const char *name, char *value, Device *at) {
    unsigned long long number = strtoull(value, NULL, 0);
    unsigned pid;
    long long bytes;
    if (!strcmp(name, "driver")) snprintf(driver, sizeof driver, "%s", value);
    else if (!strcmp(name, "fail_init")) fail_init = (int)number;
    else if (!strcmp(name, "fail_count")) fail_count = (int)number;
    else if (!strcmp(name, "hang_s")) hang_s = (unsigned)number;
    else if (!at) { fprintf(stderr, "fake NVML: %s before any gpu\n", name); exit(70); }
    else if (!strcmp(name, "name")) snprintf(at->name, sizeof at->name, "%s", value);
    else if (!strcmp(name, "uuid")) snprintf(at->uuid, sizeof at->uuid, "%s", value);
    else if (!strcmp(name, "bus")) at->bus = (unsigned)number;
    else if (!strcmp(name, "capability")) sscanf(value, "%d.%d", &at->major, &at->minor);
    else if (!strcmp(name, "total")) at->total = number;
    else if (!strcmp(name, "reserved")) at->reserved = number;
    else if (!strcmp(name, "used")) at->used = number;
    else if (!strcmp(name, "power_mw")) at->power = (unsigned)number;
    else if (!strcmp(name, "energy_mj")) at->energy = number;
    else if (!strcmp(name, "ats")) at->ats = (unsigned)number;
    else if (!strcmp(name, "mig_mode")) at->mig = (unsigned)number;
    else if (!strcmp(name, "p2p")) at->p2p = (unsigned)number;
    else if (!strcmp(name, "link")) at->links[at->link_count++] = atoi(value);
    else if (!strncmp(name, "fail_", 5)) {
        snprintf(at->faults[at->fault_count].call, sizeof at->faults[0].call, "%s", name + 5);
        at->faults[at->fault_count++].code = (int)number;
    }
    else if (sscanf(value, "%u %lld", &pid, &bytes) == 2 && !strcmp(name, "computes"))
        at->compute[at->computes++] = (Process){pid, (unsigned long long)bytes, 0, 0};
    else if (sscanf(value, "%u %lld", &pid, &bytes) == 2 && !strcmp(name, "draws"))
        at->graphics[at->drawers++] = (Process){pid, (unsigned long long)bytes, 0, 0};
    else { fprintf(stderr, "fake NVML: no such fact: %s %s\n", name, value); exit(70); }
}

/* The error that a call about this device shall end with; 0 for none. */
static int fault(const Device *d, const char *call) {
    for (unsigned i = 0; i < d->fault_count; i++)
        if (!strcmp(d->faults[i].call, call)) return d->faults[i].code;
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
    if (!file) { fprintf(stderr, "fake NVML: FAKE_NVML names no file\n"); exit(70); }
    memset(devices, 0, sizeof devices);
    gpu_count = device_count = 0;
    Device *at = NULL;
    char line[256];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, ' ');
        if (value) *value++ = 0;
        if (!line[0]) continue;
        if (!strcmp(line, "gpu")) at = gpus[gpu_count++] = new_device(NULL);
        else if (!strcmp(line, "mig")) {
            Device *parent = gpus[gpu_count - 1];
            at = parent->instances[parent->instance_count++] = new_device(parent);
            at->gpu_instance = parent->instance_count;
        } else read_fact(line, value ? value : "", at);
    }
    fclose(file);
    if (hang_s) sleep(hang_s);
    return fail_init;
}

int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error that the fake was told to give"; }

static int text(const char *from, char *to, unsigned size) {
    if (strlen(from) >= size) return TOO_SMALL;
    strcpy(to, from);
    return OK;
}

int nvmlSystemGetDriverVersion(char *to, unsigned size) { return text(driver, to, size); }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = gpu_count; return fail_count; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **handle) {
    if (index >= gpu_count) return INVALID;
    *handle = gpus[index];
    return fault(gpus[index], "handle");
}

int nvmlDeviceGetName(Device *d, char *to, unsigned size) {
    return fault(d, "name") ? fault(d, "name") : text(d->name, to, size);
}

int nvmlDeviceGetUUID(Device *d, char *to, unsigned size) {
    return fault(d, "uuid") ? fault(d, "uuid") : text(d->uuid, to, size);
}

static void place(unsigned bus, Pci *info) {
    memset(info, 0, sizeof *info);
    info->bus = bus;
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", bus);
}

int nvmlDeviceGetPciInfo_v3(Device *d, Pci *info) {
    if (!d->bus) return NOT_SUPPORTED;
    place(d->bus, info);
    return fault(d, "pci");
}

int nvmlDeviceGetCudaComputeCapability(Device *d, int *major, int *minor) {
    if (d->parent || !d->major) return NOT_SUPPORTED;
    *major = d->major;
    *minor = d->minor;
    return fault(d, "capability");
}

int nvmlDeviceGetMemoryInfo(Device *d, MemoryV1 *memory) {
    if (fault(d, "memory")) return fault(d, "memory");
    unsigned long long used = d->used + d->reserved; /* version 1 counts what the driver keeps as used */
    *memory = (MemoryV1){d->total, d->total - used, used};
    return OK;
}

int nvmlDeviceGetPowerUsage(Device *d, unsigned *mw) {
    *mw = d->power;
    return d->parent ? NOT_SUPPORTED : fault(d, "power");
}

int nvmlDeviceGetTotalEnergyConsumption(Device *d, unsigned long long *mj) {
    *mj = d->energy;
    return d->parent ? NOT_SUPPORTED : fault(d, "energy");
}

int nvmlDeviceGetMigMode(Device *d, unsigned *current, unsigned *pending) {
    *current = *pending = d->mig;
    return fault(d, "mig");
}

int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *count) { (void)d; *count = INSTANCES; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned index, Device **handle) {
    if (index >= d->instance_count) return NOT_FOUND;
    *handle = d->instances[index];
    return fault(d, "instance");
}

int nvmlDeviceGetGpuInstanceId(Device *d, unsigned *id) { *id = d->gpu_instance; return d->parent ? OK : NOT_SUPPORTED; }
int nvmlDeviceGetComputeInstanceId(Device *d, unsigned *id) { *id = 0; return d->parent ? OK : NOT_SUPPORTED; }

int nvmlDeviceGetP2PStatus(Device *one, Device *two, int index, int *status) {
    *status = 5; /* not supported */
    if (index == 2) {
        for (int i = 0; i < one->link_count; i++)
            if (one->links[i] == (int)two->bus) *status = 0;
    } else if (one->p2p && one->p2p == two->p2p) *status = 0;
    return fault(one, "p2p");
}

int nvmlDeviceGetNvLinkState(Device *d, unsigned link, unsigned *active) {
    if ((int)link >= d->link_count) return d->link_count ? INVALID : NOT_SUPPORTED;
    *active = d->links[link] != -2;
    return fault(d, "link");
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Device *d, unsigned link, unsigned *kind) {
    *kind = d->links[link] == -1 ? 2 : 0;
    return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device *d, unsigned link, Pci *info) {
    place((unsigned)d->links[link], info);
    return OK;
}

static int list(Device *d, const Process *from, unsigned there, unsigned *count, Process *to) {
    if (fault(d, "processes")) return fault(d, "processes");
    unsigned room = *count;
    *count = there;
    if (there && (!to || room < there)) return TOO_SMALL;
    if (to) memcpy(to, from, there * sizeof *from);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device *d, unsigned *count, Process *to) {
    return list(d, d->compute, d->computes, count, to);
}
int nvmlDeviceGetGraphicsRunningProcesses_v2(Device *d, unsigned *count, Process *to) {
    return list(d, d->graphics, d->drawers, count, to);
}

#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned *count, Process *to) {
    return list(d, d->compute, d->computes, count, to);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *d, unsigned *count, Process *to) {
    return list(d, d->graphics, d->drawers, count, to);
}

int nvmlDeviceGetMemoryInfo_v2(Device *d, MemoryV2 *memory) {
    if (memory->version != (sizeof *memory | 2u << 24)) return VERSION;
    if (fault(d, "memory_v2")) return fault(d, "memory_v2");
    if (fault(d, "memory")) return fault(d, "memory");
    *memory = (MemoryV2){memory->version, d->total, d->reserved, d->total - d->reserved - d->used, d->used};
    return OK;
}

int nvmlDeviceGetAddressingMode(Device *d, Addressing *mode) {
    mode->value = d->ats ? 2 : 0;
    return fault(d, "addressing");
}
#endif
