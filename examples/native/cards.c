/* Nine cards that repaint themselves while the window goes on at 60 frames a second: C99, SDL2, the native library.
 *
 *     cc -std=c99 examples/native/cards.c -o cards $(sdl2-config --cflags --libs) -I runtimes/native/include \
 *        -L build -lgenin -lm -Wl,-rpath,$PWD/build
 *     GENIN_ENGINE_PATH=PATH/libonnxruntime.so ./cards runtimes/weights/student-1step
 *
 * Click a card, or press space for all, to paint it anew; escape closes, also in the middle of a picture. For tests: --frames N ends by
 * itself, --screenshot FILE.bmp writes the last frame, SDL_VIDEODRIVER=dummy needs no screen.
 */
#include <SDL.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "genin.h"

enum { SIDE = 3, CARDS = SIDE * SIDE, SIZE = 192, GAP = 16, WIDTH = SIDE * (SIZE + GAP) + GAP, FRAME_MS = 16 };

static const char *const hair[] = {"spiky blond hair", "long black hair", "a red bun"};
static const char *const place[] = {"in a forest", "by a waterfall", "on a rooftop at night"};

typedef struct {
  SDL_Texture *texture;
  uint64_t seed, changed; /* when its picture came, in milliseconds */
  int painting;
} Card;

static void paint(genin_worker *worker, Card *cards, int number) {
  genin_request request;
  genin_ticket ticket;
  char prompt[128];
  genin_request_init(&request, sizeof request);
  snprintf(prompt, sizeof prompt, "a ninja with %s %s", hair[number % SIDE], place[number / SIDE]);
  request.prompt = prompt;
  request.prompt_bytes = strlen(prompt);
  request.seed = ++cards[number].seed * CARDS + (uint64_t)number;
  request.slot = (uint32_t)number + 1; /* a card's newer picture takes the place of one that waits */
  request.tag = (uint64_t)number;
  cards[number].painting = genin_submit(worker, &request, &ticket) == GENIN_OK;
}

static void show(SDL_Renderer *renderer, genin_worker *worker, Card *card, const genin_event *event) {
  void *pixels;
  int pitch;
  if (!card->texture) card->texture = SDL_CreateTexture(renderer, SDL_PIXELFORMAT_RGBA32, SDL_TEXTUREACCESS_STREAMING, (int)event->width, (int)event->height);
  if (!card->texture || SDL_LockTexture(card->texture, NULL, &pixels, &pitch)) return;
  genin_take(worker, event->ticket, pixels, pitch, (uint64_t)pitch * event->height);
  SDL_UnlockTexture(card->texture);
  card->changed = SDL_GetTicks64();
  card->painting = 0;
}

static void draw(SDL_Renderer *renderer, const Card *cards) {
  int number;
  SDL_SetRenderDrawColor(renderer, 24, 22, 33, 255);
  SDL_RenderClear(renderer);
  for (number = 0; number < CARDS; ++number) {
    const Card *card = &cards[number];
    const double age = (double)(SDL_GetTicks64() - card->changed) / 250.0;
    const int inset = card->texture && age < 1 ? (int)(12 * cos(age * 1.5708)) : 0; /* a new picture springs open */
    SDL_Rect place_of = {GAP + number % SIDE * (SIZE + GAP) + inset, GAP + number / SIDE * (SIZE + GAP) + inset, SIZE - 2 * inset, SIZE - 2 * inset};
    SDL_SetRenderDrawColor(renderer, 58, 53, 77, 255);
    SDL_RenderFillRect(renderer, &place_of);
    if (card->texture) SDL_RenderCopy(renderer, card->texture, NULL, &place_of);
    if (card->painting) SDL_SetRenderDrawColor(renderer, 255, 178, 62, 255);
    SDL_RenderDrawRect(renderer, &place_of);
  }
  SDL_RenderPresent(renderer);
}

static void screenshot(SDL_Renderer *renderer, const char *path) {
  SDL_Surface *surface = SDL_CreateRGBSurfaceWithFormat(0, WIDTH, WIDTH, 32, SDL_PIXELFORMAT_ARGB8888);
  if (!surface) return;
  if (!SDL_RenderReadPixels(renderer, NULL, surface->format->format, surface->pixels, surface->pitch)) SDL_SaveBMP(surface, path);
  SDL_FreeSurface(surface);
}

int main(int argc, char **argv) {
  Card cards[CARDS] = {{0}};
  const char *shot = NULL;
  long frames = -1, frame, late = 0, pictures = 0;
  int number, i, running = 1;
  genin_open_options options;
  genin_worker *worker = NULL;
  genin_ticket loading;
  SDL_Window *window;
  SDL_Renderer *renderer;

  for (i = 2; i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--frames")) frames = strtol(argv[i + 1], NULL, 10);
    if (!strcmp(argv[i], "--screenshot")) shot = argv[i + 1];
  }
  if (argc < 2) return fprintf(stderr, "cards BUNDLE [--frames N] [--screenshot FILE.bmp]\n"), 2;
  if (SDL_Init(SDL_INIT_VIDEO)) return fprintf(stderr, "%s\n", SDL_GetError()), 1;
  window = SDL_CreateWindow("genin: cards", SDL_WINDOWPOS_CENTERED, SDL_WINDOWPOS_CENTERED, WIDTH, WIDTH, 0);
  renderer = SDL_CreateRenderer(window, -1, 0);
  SDL_SetHint(SDL_HINT_RENDER_SCALE_QUALITY, "best");
  genin_open_options_init(&options, sizeof options);
  options.thread_priority = -1;
  if (!renderer) return fprintf(stderr, "%s\n", SDL_GetError()), 1;
  if (genin_open(argv[1], &options, &worker, &loading)) {
    char why[512];
    genin_last_error(why, sizeof why);
    return fprintf(stderr, "%s\n", why), 1;
  }
  for (number = 0; number < CARDS; ++number) paint(worker, cards, number);

  for (frame = 0; running && frame != frames; ++frame) {
    const uint64_t begun = SDL_GetTicks64();
    SDL_Event input;
    genin_event event;
    uint64_t spent;
    while (SDL_PollEvent(&input)) {
      if (input.type == SDL_QUIT || (input.type == SDL_KEYDOWN && input.key.keysym.sym == SDLK_ESCAPE)) running = 0;
      if (input.type == SDL_KEYDOWN && input.key.keysym.sym == SDLK_SPACE)
        for (number = 0; number < CARDS; ++number) paint(worker, cards, number);
      if (input.type == SDL_MOUSEBUTTONDOWN) {
        number = input.button.y / (SIZE + GAP) * SIDE + input.button.x / (SIZE + GAP);
        if (input.button.x < WIDTH - GAP && input.button.y < WIDTH - GAP) paint(worker, cards, number);
      }
    }
    while (genin_poll(worker, &event, 1, sizeof event)) {
      if (event.kind == GENIN_DONE) show(renderer, worker, &cards[event.tag], &event), ++pictures;
      if (event.kind == GENIN_FAILED && event.result != GENIN_E_SUPERSEDED) fprintf(stderr, "%s\n", event.message), running = 0;
    }
    if (frames >= 0 && frame % 10 == 9) paint(worker, cards, (int)(frame / 10) % CARDS); /* as somebody would who clicks a lot */
    draw(renderer, cards);
    spent = SDL_GetTicks64() - begun;
    late += spent > 20;
    if (spent < FRAME_MS) SDL_Delay((uint32_t)(FRAME_MS - spent));
  }
  if (shot) screenshot(renderer, shot);
  printf("%ld frames, %ld late, %ld pictures\n", frame, late, pictures);
  genin_close(worker);
  for (number = 0; number < CARDS; ++number) SDL_DestroyTexture(cards[number].texture);
  SDL_DestroyRenderer(renderer);
  SDL_DestroyWindow(window);
  SDL_Quit();
  return pictures ? 0 : 1;
}
