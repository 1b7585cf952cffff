/* What the calls of a game cost, and how soon a cancelled drawing has ended.
 *
 *     genin_latency BUNDLE ENGINE PICTURES STEPS
 *
 * Prints microseconds as JSON: of each call the median, 99.9th percentile and longest while pictures are drawn without a pause; time
 * outside of the engine in a picture; from genin_cancel to the event, with STEPS steps, at a moment that differs each time. */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "genin.h"

#define MOST 100000

static double submits[MOST], polls[MOST], takes[MOST], cancels[MOST], idles[MOST];

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

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print(const char *name, double *values, long count, const char *end) {
  qsort(values, (size_t)count, sizeof *values, ascending);
  printf("\"%s\": {\"count\": %ld, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}%s\n", name, count, values[count / 2],
         values[count * 99 / 100], values[count * 999 / 1000], values[count - 1], end);
}

static genin_ticket submit(genin_worker *worker, genin_request *request, long i) {
  genin_ticket ticket;
  const double start = now_us();
  request->seed = (uint64_t)i;
  if (genin_submit(worker, request, &ticket) != GENIN_OK) exit(3);
  submits[i] = now_us() - start;
  return ticket;
}

int main(int argc, char **argv) {
  genin_open_options options;
  genin_request request;
  genin_worker *worker = NULL;
  genin_ticket loading, ticket, next;
  genin_event event;
  genin_stats stats;
  genin_info info;
  unsigned char *pixels;
  long count, i, polled = 0, taken = 0, cancelled = 0;
  double start, drawing_us = 0, picture_us = 0;

  if (argc != 5) return fprintf(stderr, "genin_latency BUNDLE ENGINE PICTURES STEPS\n"), 2;
  count = strtol(argv[3], NULL, 10);
  if (count < 1 || count > MOST / 2) return 2;
  genin_open_options_init(&options, sizeof options);
  genin_request_init(&request, sizeof request);
  options.engine_path = argv[2];
  request.prompt = "a ninja in the rain";
  request.prompt_bytes = strlen(request.prompt);
  if (genin_open(argv[1], &options, &worker, &loading) != GENIN_OK || genin_wait(worker, loading, UINT64_MAX) != GENIN_OK) return 1;
  memset(&info, 0, sizeof info);
  info.size = sizeof info;
  if (genin_get_info(worker, &info) != GENIN_OK) return 1;
  pixels = malloc((size_t)info.width * info.height * 4);
  while (genin_poll(worker, &event, 1, sizeof event)) {
  }
  genin_wait(worker, submit(worker, &request, 0), UINT64_MAX); /* warm */

  next = submit(worker, &request, 0); /* two on the way, so that drawing never pauses */
  for (i = 1; i <= count; ++i) {
    ticket = next;
    next = submit(worker, &request, i);
    for (;;) {
      int got;
      start = now_us();
      got = (int)genin_poll(worker, &event, 1, sizeof event);
      if (polled < MOST) polls[polled++] = now_us() - start;
      if (!got) sleep_us(200);
      else if (event.kind == GENIN_DONE && event.ticket == ticket) break;
    }
    drawing_us += (double)event.drawing_ns / 1e3;
    start = now_us();
    if (genin_take(worker, ticket, pixels, (int64_t)info.width * 4, (uint64_t)info.width * info.height * 4) != GENIN_OK) return 1;
    takes[taken++] = now_us() - start;
  }
  genin_wait(worker, next, UINT64_MAX);
  memset(&stats, 0, sizeof stats);
  stats.size = sizeof stats;
  genin_get_stats(worker, &stats);
  picture_us = drawing_us / (double)count;

  request.steps = (uint32_t)strtoul(argv[4], NULL, 10);
  for (i = 0; i < (count < 300 ? count : 300); ++i) {
    ticket = submit(worker, &request, count + 1 + i);
    sleep_us(100 + (long)(picture_us * (double)(i * 7919 % 1000) / 1000)); /* anywhere in a picture */
    start = now_us();
    if (genin_cancel(worker, ticket) != GENIN_OK) continue; /* it was done already */
    cancels[cancelled] = now_us() - start;
    if (genin_wait(worker, ticket, UINT64_MAX) != GENIN_E_CANCELLED) continue;
    idles[cancelled++] = now_us() - start;
  }
  if (!cancelled) return 1;
  printf("{\n");
  print("submit", submits, count, ",");
  print("poll", polls, polled, ",");
  print("take", takes, taken, ",");
  print("cancel", cancels, cancelled, ",");
  print("cancel_to_idle", idles, cancelled, ",");
  printf("\"picture\": %.1f, \"outside_the_engine\": %.1f\n}\n", picture_us, (double)stats.other_ns / 1e3 / (double)stats.done);
  free(pixels);
  genin_close(worker);
  return 0;
}
