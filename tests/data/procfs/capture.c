// What does the kernel write while a small RAN of named threads runs? Captures its counter files at two moments.
// How it is built and run: README.md beside it.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(clockid_t c) { struct timespec t; clock_gettime(c, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }
static void pin(int core) { cpu_set_t s; CPU_ZERO(&s); CPU_SET(core, &s); sched_setaffinity(0, sizeof s, &s); }
struct job { const char *name; int core; int busy_ms; int every_ms; };
static void *work(void *p) {
    struct job *j = p; prctl(PR_SET_NAME, j->name); if (j->core >= 0) pin(j->core);
    for (;;) {
        long long b = now_ns(CLOCK_THREAD_CPUTIME_ID);
        while (now_ns(CLOCK_THREAD_CPUTIME_ID) - b < j->busy_ms * 1000000LL) ;
        if (j->busy_ms < j->every_ms) usleep((j->every_ms - j->busy_ms) * 1000);
    }
    return 0;
}
static void put(const char *text, const char *fmt, ...) {
    char path[512]; va_list a; va_start(a, fmt); vsnprintf(path, sizeof path, fmt, a); va_end(a);
    int f = open(path, O_WRONLY); if (f < 0 || write(f, text, strlen(text)) < 0) fprintf(stderr, "%s: %s\n", path, strerror(errno)); if (f >= 0) close(f);
}
static const char *roots[4]; static int nroots;
static void group(const char *path) { for (int i = 0; i < nroots; i++) { char p[512]; snprintf(p, sizeof p, "%s/%s", roots[i], path); mkdir(p, 0755); } }
static void enter(const char *path) { for (int i = 0; i < nroots; i++) put("0", "%s/%s/cgroup.procs", roots[i], path); }
static pid_t ran(const char *name, const char *cg, struct job *jobs, int n, int policy) {
    pid_t p = fork(); if (p) return p;
    prctl(PR_SET_PDEATHSIG, SIGKILL); prctl(PR_SET_NAME, name); if (cg) enter(cg);
    struct sched_param sp = {0}; sched_setscheduler(0, policy, &sp);
    if (policy == SCHED_IDLE) { work(&jobs[0]); }
    for (int i = 0; i < n; i++) { pthread_t t; pthread_create(&t, 0, work, &jobs[i]); }
    for (;;) pause();
}
static char *out; static size_t outn, outc = 1 << 20;
static void say(const char *s, size_t n) { if (outn + n < outc) { memcpy(out + outn, s, n); outn += n; } }
static void file(const char *fmt, ...) {
    char path[512]; va_list a; va_start(a, fmt); vsnprintf(path, sizeof path, fmt, a); va_end(a);
    static char buf[65536]; int f = open(path, O_RDONLY); if (f < 0) return;
    ssize_t n = 0, r; while ((r = read(f, buf + n, sizeof buf - 1 - n)) > 0) n += r;
    int e = errno; close(f);
    char head[600]; int h = snprintf(head, sizeof head, "== %s\n", path + 1); say(head, h);
    if (r < 0) { h = snprintf(head, sizeof head, "!! %s\n", strerror(e)); say(head, h); return; }
    buf[n] = 0; int status = strstr(path, "/status") != 0;
    for (char *l = buf; *l; ) {
        char *e = strchr(l, '\n'); size_t len = e ? (size_t)(e - l) + 1 : strlen(l);
        if (!strncmp(l, "intr ", 5) && len > 60) { say(l, 60); say("\n", 1); }
        else if (!status || !strncmp(l, "Name:", 5) || !strncmp(l, "Tgid:", 5) || !strncmp(l, "Pid:", 4) || !strncmp(l, "Cpus_allowed", 12)) say(l, len);
        l += len;
    }
}
static void process(pid_t p) {
    const char *names[] = {"comm", "stat", "status", "cgroup", "schedstat"};
    for (int i = 0; i < 5; i++) file("/proc/%d/%s", p, names[i]);
    char d[64]; snprintf(d, sizeof d, "/proc/%d/task", p); DIR *D = opendir(d); struct dirent *e;
    while (D && (e = readdir(D))) if (e->d_name[0] != '.') {
        file("/proc/%d/task/%s/comm", p, e->d_name); file("/proc/%d/task/%s/schedstat", p, e->d_name);
        if (atoi(e->d_name) != p) file("/proc/%s/schedstat", e->d_name);
    }
    if (D) closedir(D);
}
static void groups(const char *cg) {
    const char *names[] = {"cpu.stat", "cpu.pressure", "cgroup.threads", "cpuacct.usage", "tasks"};
    for (int i = 0; i < nroots; i++) for (int k = 0; k < 5; k++) file("%s/%s/%s", roots[i], cg, names[k]);
}
int main(int argc, char **argv) {
    int init = getpid() == 1; int v1 = argc > 1 && !strcmp(argv[1], "v1");
    if (init) {
        mount("dev", "/dev", "devtmpfs", 0, 0); mount("proc", "/proc", "proc", 0, 0); mount("sysfs", "/sys", "sysfs", 0, 0);
        if (v1) {
            mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); mkdir("/sys/fs/cgroup/cpu,cpuacct", 0755);
            if (mount("cgroup", "/sys/fs/cgroup/cpu,cpuacct", "cgroup", 0, "cpu,cpuacct")) perror("mount v1");
            roots[nroots++] = "/sys/fs/cgroup/cpu,cpuacct";
        } else {
            if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, 0)) perror("mount v2");
            put("+cpu +pids", "/sys/fs/cgroup/cgroup.subtree_control"); roots[nroots++] = "/sys/fs/cgroup";
        }
        int c = open("/dev/console", O_RDWR); dup2(c, 0); dup2(c, 1); dup2(c, 2);
    } else { roots[nroots++] = "/sys/fs/cgroup/cpuacct"; roots[nroots++] = "/sys/fs/cgroup/unified"; }
    group("ran.slice"); if (init && !v1) put("+cpu +pids", "/sys/fs/cgroup/ran.slice/cgroup.subtree_control");
    group("ran.slice/gnb.service"); group("ran.slice/gnb.service/du"); group("ran.slice/gnb.service/cu");
    static struct job du[] = {{"up_phy_dl#0", 0, 1, 1}, {"up_phy_ul#0", 0, 3, 10}, {"mac#0", 1, 3, 10}};
    static struct job cu[] = {{"cu_up#0", 1, 1, 20}};
    static struct job wk[] = {{"neap-worker", 1, 1, 1}};
    pid_t a = ran("gnb", "ran.slice/gnb.service/du", du, 3, SCHED_OTHER);
    pid_t b = ran("cu", "ran.slice/gnb.service/cu", cu, 1, SCHED_OTHER);
    pid_t w = ran("neap-worker", 0, wk, 1, SCHED_IDLE);
    sleep(2); out = malloc(outc); char *texts[2];
    for (int m = 0; m < 2; m++) {
        outn = 0; char head[300]; struct utsname u; uname(&u);
        int h = snprintf(head, sizeof head, "# at %lld ns, Linux %s %s; gnb %d, cu %d, worker %d\n", now_ns(CLOCK_MONOTONIC), u.release, u.machine, a, b, w); say(head, h);
        process(a); process(b); process(w);
        groups("ran.slice"); groups("ran.slice/gnb.service"); groups("ran.slice/gnb.service/du"); groups("ran.slice/gnb.service/cu");
        file("/proc/stat"); file("/proc/pressure/cpu"); file("/proc/sys/kernel/sched_rt_runtime_us");
        h = snprintf(head, sizeof head, "# done at %lld ns\n", now_ns(CLOCK_MONOTONIC)); say(head, h);
        texts[m] = strndup(out, outn); if (!m) sleep(2);
    }
    for (int m = 0; m < 2; m++) printf("@@@ BEGIN %d\n%s@@@ END %d\n", m, texts[m], m);
    fflush(stdout); kill(a, 9); kill(b, 9); kill(w, 9); while (wait(0) > 0) ;
    const char *gs[] = {"ran.slice/gnb.service/cu", "ran.slice/gnb.service/du", "ran.slice/gnb.service", "ran.slice"};
    for (int i = 0; i < 4; i++) for (int r = 0; r < nroots; r++) { char p[512]; snprintf(p, sizeof p, "%s/%s", roots[r], gs[i]); rmdir(p); }
    if (init) { sync(); sleep(1); reboot(RB_POWER_OFF); }
    return 0;
}
