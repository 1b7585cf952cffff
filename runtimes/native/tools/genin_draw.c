/* Draw one picture: genin_draw BUNDLE PROMPT [--seed N] [--steps K] [--threads N] [--precision P] [--engine NAME] [--engine-path FILE] --out FILE.ppm */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "genin.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <shellapi.h>

/* Windows hands main() words in an old code page; these are UTF-8, as the library takes them. */
static char **utf8_words(int *count) {
  wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), count);
  char **words = calloc((size_t)*count + 1, sizeof *words);
  int i, bytes;
  for (i = 0; words && wide && i < *count; ++i) {
    bytes = WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
    words[i] = calloc((size_t)bytes, 1);
    if (!words[i]) return NULL;
    WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, words[i], bytes, NULL, NULL);
  }
  return words;
}
#endif

static int fail(const char *what) {
  fprintf(stderr, "genin_draw: %s\n", what);
  return 2;
}

static FILE *open_file(const char *path) {
#if defined(_WIN32)
  wchar_t wide[32768]; /* the longest that there is */
  return MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 32768) ? _wfopen(wide, L"wb") : NULL;
#else
  return fopen(path, "wb");
#endif
}

static int save(const char *path, const unsigned char *rgba, uint32_t width, uint32_t height) {
  FILE *file = open_file(path);
  size_t i, count = (size_t)width * height;
  if (!file) return 0;
  fprintf(file, "P6\n%u %u\n255\n", width, height);
  for (i = 0; i < count; ++i) fwrite(rgba + 4 * i, 1, 3, file);
  return fclose(file) == 0;
}

int main(int argc, char **argv) {
  genin_open_options options;
  genin_request request;
  genin_worker *worker = NULL;
  genin_ticket loading, ticket;
  genin_event event;
  const char *out = NULL;
  unsigned char *rgba;
  int i;

#if defined(_WIN32)
  argv = utf8_words(&argc);
  if (!argv) return fail("not enough memory");
#endif
  genin_open_options_init(&options, sizeof options);
  genin_request_init(&request, sizeof request);
  if (argc < 3) return fail("usage: genin_draw BUNDLE PROMPT [--seed N] [--steps K] [--threads N] [--precision P] [--engine NAME] [--engine-path FILE] --out FILE.ppm");
  request.prompt = argv[2];
  request.prompt_bytes = strlen(argv[2]);
  for (i = 3; i + 1 < argc; i += 2) {
    const char *value = argv[i + 1];
    if (!strcmp(argv[i], "--seed")) request.seed = strtoull(value, NULL, 10);
    else if (!strcmp(argv[i], "--steps")) request.steps = (uint32_t)strtoul(value, NULL, 10);
    else if (!strcmp(argv[i], "--threads")) options.threads = (uint32_t)strtoul(value, NULL, 10);
    else if (!strcmp(argv[i], "--precision")) options.precision = value;
    else if (!strcmp(argv[i], "--engine")) options.engine = value;
    else if (!strcmp(argv[i], "--engine-path")) options.engine_path = value;
    else if (!strcmp(argv[i], "--out")) out = value;
    else return fail("unknown option");
  }
  if (i < argc || !out) return fail(out ? "an option lacks its value" : "--out FILE.ppm is missing");

  if (genin_open(argv[1], &options, &worker, &loading) != GENIN_OK || genin_submit(worker, &request, &ticket) != GENIN_OK) {
    char message[512];
    genin_last_error(message, sizeof message);
    genin_close(worker);
    return fail(message);
  }
  genin_wait(worker, ticket, UINT64_MAX);
  while (genin_poll(worker, &event, 1, sizeof event) == 1) {
    if (event.kind == GENIN_FAILED) {
      fail(event.message);
      genin_close(worker);
      return 2;
    }
    if (event.kind == GENIN_READY) fprintf(stderr, "loaded in %.1f ms\n", (double)event.drawing_ns / 1e6);
    if (event.kind != GENIN_DONE) continue;
    fprintf(stderr, "drawn in %.1f ms\n", (double)event.drawing_ns / 1e6);
    rgba = malloc((size_t)event.width * event.height * 4);
    if (!rgba || genin_take(worker, ticket, rgba, (int64_t)event.width * 4, (uint64_t)event.width * event.height * 4) != GENIN_OK ||
        !save(out, rgba, event.width, event.height)) {
      free(rgba);
      genin_close(worker);
      return fail("the picture could not be written");
    }
    free(rgba);
  }
  genin_close(worker);
  return 0;
}
