/* What the calls of a game cost, and how soon a cancelled drawing has ended.
 *
 *     genin_latency BUNDLE ENGINE PICTURES STEPS
 *
 * Prints microseconds as JSON: of each call the median, 99.9th percentile and longest while pictures are drawn without a pause; time
 * outside of the engine in a picture; from genin_cancel to the event, with STEPS steps, at a moment that differs each time.
 *
 * On a machine that does other work, too, the tail of these is the system's scheduler. So on Linux it also says how many calls were
 * `preempted` (another program got the processor), how many `blocked` (they slept for a lock), and the percentiles of all calls that were
 * not preempted, as `undisturbed`; `nothing` is a call of nothing, timed like the others. `resident_kib` is the process's memory after a fifth, a half and all of the pictures. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <sys/resource.h>
#endif

#include "genin.h"

#define MOST 100000

struct calls {
  double all[MOST], undisturbed[MOST];
  long count, quiet, blocked, preempted;
};

static struct calls submits, polls, takes, cancels, nothings;
static double outside[MOST], idles[MOST];
static long idle_count;

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void sleep_us(long us) {
  struct timespec t;
  t.tv_sec = us / 1000000;
  t.tv_nsec = us % 1000000 * 1000;
  nanosleep(&t, NULL);
}

static double started;
static long switches[2], before[2]; /* of this thread: given up to wait, taken by the system */

static void count_switches(void) {
#ifdef __linux__
  struct rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  switches[0] = usage.ru_nvcsw;
  switches[1] = usage.ru_nivcsw;
#endif
}

static void begin(void) {
  count_switches();
  memcpy(before, switches, sizeof before);
  started = now_us();
}

static void end(struct calls *calls) {
  const double us = now_us() - started;
  count_switches();
  if (calls->count == MOST) return;
  calls->all[calls->count++] = us;
  calls->blocked += switches[0] > before[0];
  calls->preempted += switches[1] > before[1];
  if (switches[1] == before[1]) calls->undisturbed[calls->quiet++] = us;
}

static long resident_kib(void) {
  long all, pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file) return 0;
  if (fscanf(file, "%ld %ld", &all, &pages) != 2) pages = 0;
  fclose(file);
  return pages * 4;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_times(const char *name, double *values, long count) {
  qsort(values, (size_t)count, sizeof *values, ascending);
  printf("\"%s\": {\"count\": %ld, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f", name, count, values[count / 2],
         values[count * 99 / 100], values[count * 999 / 1000], values[count - 1]);
}

static void print(const char *name, struct calls *calls) {
  print_times(name, calls->all, calls->count);
  printf(", \"blocked\": %ld, \"preempted\": %ld", calls->blocked, calls->preempted);
  if (calls->quiet) {
    printf(",\n  ");
    print_times("undisturbed", calls->undisturbed, calls->quiet);
    printf("}");
  }
  printf("},\n");
}

static genin_ticket submit(genin_worker *worker, genin_request *request, long i) {
  genin_ticket ticket;
  request->seed = (uint64_t)i;
  begin();
  if (genin_submit(worker, request, &ticket) != GENIN_OK) exit(3);
  end(&submits);
  return ticket;
}

/* Pictures without a pause: two are always on the way. */
static int draw(genin_worker *worker, genin_request *request, long count, long side_bytes, uint64_t room, double *picture_us) {
  genin_event event;
  genin_stats stats;
  genin_ticket ticket, next = submit(worker, request, 0);
  long i, pictures = 0, resident[3] = {0, 0, 0};
  double drawing_us = 0;
  uint64_t other_ns = 0, done = 0;
  unsigned char *pixels = malloc((size_t)room);

  for (i = 1; i <= count; ++i) {
    ticket = next;
    next = submit(worker, request, i);
    for (;;) {
      uint32_t got;
      begin();
      got = genin_poll(worker, &event, 1, sizeof event);
      end(&polls);
      if (!got) sleep_us(200);
      else if (event.kind == GENIN_FAILED) return fprintf(stderr, "%s\n", event.message), 1;
      else if (event.kind == GENIN_DONE && event.ticket == ticket) break;
    }
    drawing_us += (double)event.drawing_ns / 1e3;
    begin();
    if (genin_take(worker, ticket, pixels, side_bytes, room) != GENIN_OK) return 1;
    end(&takes);
    begin();
    end(&nothings);
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    genin_get_stats(worker, &stats);
    if (stats.done == done + 1) outside[pictures++] = (double)(stats.other_ns - other_ns) / 1e3;
    other_ns = stats.other_ns, done = stats.done;
    if (i == (count + 4) / 5) resident[0] = resident_kib();
    if (i == (count + 1) / 2) resident[1] = resident_kib();
  }
  resident[2] = resident_kib();
  genin_wait(worker, next, UINT64_MAX);
  free(pixels);
  if (!pictures) return 1;
  *picture_us = drawing_us / (double)count;
  print("submit", &submits);
  print("poll", &polls);
  print("take", &takes);
  print("nothing", &nothings);
  print_times("outside_the_engine", outside, pictures);
  printf(", \"min\": %.1f, \"mean\": %.1f},\n", outside[0], (double)stats.other_ns / 1e3 / (double)stats.done);
  printf("\"picture\": %.1f, \"resident_kib\": [%ld, %ld, %ld],\n", *picture_us, resident[0], resident[1], resident[2]);
  return 0;
}

static int cancel(genin_worker *worker, genin_request *request, long count, double picture_us) {
  long i;
  for (i = 0; i < count; ++i) {
    const genin_ticket ticket = submit(worker, request, i);
    sleep_us(100 + (long)(picture_us * (double)(i * 7919 % 1000) / 1000)); /* anywhere in a picture */
    begin();
    if (genin_cancel(worker, ticket) != GENIN_OK) continue; /* it was done already */
    end(&cancels);
    if (genin_wait(worker, ticket, UINT64_MAX) == GENIN_E_CANCELLED) idles[idle_count++] = now_us() - started;
  }
  if (!idle_count) return 1;
  print("cancel", &cancels);
  print_times("cancel_to_idle", idles, idle_count);
  printf("}\n");
  return 0;
}

int main(int argc, char **argv) {
  genin_open_options options;
  genin_request request;
  genin_worker *worker = NULL;
  genin_ticket loading;
  genin_event event;
  genin_info info;
  long count;
  double picture_us;

  if (argc != 5) return fprintf(stderr, "genin_latency BUNDLE ENGINE PICTURES STEPS\n"), 2;
  count = strtol(argv[3], NULL, 10);
  if (count < 1 || count > MOST) return 2;
  genin_open_options_init(&options, sizeof options);
  genin_request_init(&request, sizeof request);
  options.engine_path = argv[2];
  request.prompt = "a ninja in the rain";
  request.prompt_bytes = strlen(request.prompt);
  if (genin_open(argv[1], &options, &worker, &loading) != GENIN_OK || genin_wait(worker, loading, UINT64_MAX) != GENIN_OK) return 1;
  memset(&info, 0, sizeof info);
  info.size = sizeof info;
  if (genin_get_info(worker, &info) != GENIN_OK) return 1;
  while (genin_poll(worker, &event, 1, sizeof event)) {
  }
  genin_wait(worker, submit(worker, &request, 0), UINT64_MAX); /* warm */
  memset(&submits, 0, sizeof submits);
  memset(&polls, 0, sizeof polls); /* so that they do not count as memory that grows */
  memset(&takes, 0, sizeof takes);
  memset(&nothings, 0, sizeof nothings);
  memset(outside, 0, sizeof outside);
  printf("{\n");
  if (draw(worker, &request, count, (long)info.width * 4, (uint64_t)info.width * info.height * 4, &picture_us)) return 1;
  request.steps = (uint32_t)strtoul(argv[4], NULL, 10);
  if (cancel(worker, &request, count < 300 ? count : 300, picture_us)) return 1;
  printf("}\n");
  genin_close(worker);
  return 0;
}
