"""Wanted!: a game whose cards are painted while you play. No torch: `pip install 'genin[onnxruntime]' pygame-ce`.

A poster describes a ninja; find the one that it means among others that differ in little, before the incense has burnt down. All
cards are drawn by a student from the game's own state: the next round's while this one is played. The same word deals the same
cards to everybody, on every machine: `--word dragon` is a match.

    python examples/wanted.py --word dragon

For tests and pictures: --demo plays by itself, --rounds ends early, --record FOLDER keeps the last table and the time of each
frame, SDL_VIDEODRIVER=dummy needs no screen.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
import pygame

import genin

WIDTH, HEIGHT, POSTER = 1120, 660, 300
FPS = 60
ROUNDS, LIVES, ROUND_S = 20, 3, 20.0
CARDS = (4, 4, 6, 6, 6, 9, 9, 9, 12)  # of each round; the last number goes on
INK, PAPER, NIGHT, DUSK, RED, GOLD, GREEN = "#2b2230", "#f3e6c8", "#171a2e", "#232a4a", "#c8342c", "#e8a33d", "#5b8c3e"

WORLD = {
    "hair": ("spiky blond hair", "long black hair", "a silver ponytail", "a red bun", "a teal bob", "pink twintails"),
    "outfit": ("orange", "blue", "green", "red", "purple", "white"),
    "place": ("in a forest", "by a waterfall", "on a mountain", "in a desert", "before a shrine", "on a rooftop"),
    "light": ("at noon", "at sunset", "under the night sky", "in the mist"),
}
Scene = dict[str, str]


def prompt_of(scene: Scene) -> str:
    return f"a ninja with {scene['hair']} and a {scene['outfit']} outfit, {scene['place']} {scene['light']}"


@dataclass
class Card:
    """One ninja on the table. `shown` is when its picture came; `shaken` when it was wrongly accused."""

    scene: Scene
    seed: int
    picture: pygame.Surface | None = None
    shown: float = 0.0
    shaken: float = -9.0
    place: pygame.Rect = field(default_factory=pygame.Rect)


@dataclass
class Round:
    """A deal: cards, of which `wanted` is the poster's."""

    number: int
    cards: list[Card]
    wanted: int

    @property
    def ready(self) -> bool:
        return all(card.picture is not None for card in self.cards)


def deal(word: str, number: int) -> Round:
    """The same for everybody who plays the same word. Later rounds have more cards, and they differ in less."""
    chance = random.Random(f"{word.lower()}/{number}")
    count = CARDS[min(number, len(CARDS) - 1)]
    wanted = {name: chance.choice(values) for name, values in WORLD.items()}
    scenes = [wanted]
    while len(scenes) < count:
        other = dict(wanted)
        for name in chance.sample(list(WORLD), 2 if number < 5 else 1):
            other[name] = chance.choice(WORLD[name])
        if other not in scenes:
            scenes.append(other)
    chance.shuffle(scenes)
    return Round(number, [Card(scene, chance.randrange(1 << 32)) for scene in scenes], scenes.index(wanted))


class Game:
    """State and drawing; `frame` is called sixty times a second."""

    def __init__(self, screen: pygame.Surface, painter: genin.Painter, word: str, rounds: int) -> None:
        self.screen, self.painter, self.word, self.rounds = screen, painter, word, rounds
        self.title, self.text, self.small = (pygame.font.Font(None, size) for size in (54, 28, 22))
        self.backdrop = backdrop()
        self.deals: dict[int, Round] = {}
        self.number, self.points, self.lives, self.combo, self.finds = 0, 0, LIVES, 0, 0
        self.begun: float | None = None  # when the incense was lit
        self.penalty_s, self.found_at = 0.0, -9.0
        self.sparks: list[list[float]] = []
        self.over = False
        self.prepare(0, priority=2)

    # --- the table ---------------------------------------------------------------------------------------------------

    @property
    def round(self) -> Round:
        return self.deals[self.number]

    @property
    def found(self) -> bool:
        """Whether the ninja of this round is found."""
        return self.begun is not None and self.found_at >= self.begun

    def prepare(self, number: int, priority: int) -> None:
        if number in self.deals or number >= self.rounds:
            return
        self.deals[number] = deal(self.word, number)
        for card in self.deals[number].cards:
            self.painter.submit(prompt_of(card.scene), card.seed, priority=priority, tag=card)

    def collect(self, now: float) -> None:
        """Pictures that have come since the last frame."""
        for event in self.painter.poll():
            if event.error is not None:
                raise event.error
            if event.kind == "done" and (picture := self.painter.take(event.ticket)) is not None:
                card = event.tag  # perhaps of an earlier game, which nobody sees any more
                assert isinstance(card, Card)
                image = pygame.image.frombuffer(picture.array.tobytes(), picture.shape[1::-1], "RGB")
                card.picture, card.shown = pygame.transform.smoothscale(image, (256, 256)), now

    def left_s(self, now: float) -> float:
        if self.begun is None:
            return ROUND_S
        now = min(now, self.found_at) if self.found else now  # who is found burns no more incense
        return max(0.0, ROUND_S - (now - self.begun) - self.penalty_s)

    def accuse(self, card: Card, now: float) -> None:
        if self.begun is None or self.found:
            return
        if card is self.round.cards[self.round.wanted]:
            self.combo, self.finds = self.combo + 1, self.finds + 1
            self.points += round(100 + 10 * self.left_s(now)) * min(self.combo, 5)
            self.found_at = now
            self.sparks += [[*card.place.center, random.uniform(-4, 4), random.uniform(-6, 1), 1.0] for _ in range(60)]
        else:
            card.shaken, self.penalty_s, self.combo = now, self.penalty_s + 4.0, 0

    def step(self, now: float) -> None:
        self.collect(now)
        if self.over:
            return
        if self.begun is None and self.round.ready:
            self.begun, self.penalty_s = now, 0.0
            self.prepare(self.number + 1, priority=1)
        if (now - self.found_at > 0.8) if self.found else self.left_s(now) == 0:
            if not self.found:
                self.lives, self.combo = self.lives - 1, 0
            self.number, self.begun = self.number + 1, None
            self.over = self.lives == 0 or self.number >= self.rounds
            if not self.over:
                self.prepare(self.number, priority=2)

    # --- how it looks ------------------------------------------------------------------------------------------------

    def draw(self, now: float) -> None:
        self.screen.blit(self.backdrop, (0, 0))
        if self.over:
            self.draw_end()
            return
        self.draw_poster(now)
        for card in lay_out(self.round.cards):
            self.draw_card(card, now)
        for spark in self.sparks:
            pygame.draw.circle(self.screen, GOLD, spark[:2], 1 + 4 * spark[4])
            spark[0], spark[1], spark[3], spark[4] = (
                spark[0] + spark[2],
                spark[1] + spark[3],
                spark[3] + 0.25,
                spark[4] - 0.02,
            )
        self.sparks = [spark for spark in self.sparks if spark[4] > 0]

    def draw_poster(self, now: float) -> None:
        paper = pygame.Rect(24, 40, POSTER - 24, HEIGHT - 80)
        pygame.draw.rect(self.screen, PAPER, paper)
        for y in (paper.top - 8, paper.bottom - 8):
            pygame.draw.rect(self.screen, "#6b3f22", (paper.left - 10, y, paper.width + 20, 16), border_radius=8)
        self.write("WANTED", self.title, RED, (paper.centerx, 96))
        scene = self.round.cards[self.round.wanted].scene
        lines = ("a ninja with", scene["hair"], f"in {scene['outfit']},", scene["place"], scene["light"])
        for row, line in enumerate(lines):
            self.write(line, self.text, INK if row else "#8a7a66", (paper.centerx, 158 + 38 * row))
        self.draw_incense(now, paper.left + 34, 560, paper.width - 68)
        self.write(f"{self.points:,}", self.title, INK, (paper.centerx, 420))
        note = f"combo × {self.combo}" if self.combo > 1 else f"round {self.number + 1} of {self.rounds}"
        self.write(note, self.small, "#8a7a66", (paper.centerx, 458))
        for life in range(LIVES):
            colour = RED if life < self.lives else "#d8c7a2"
            pygame.draw.circle(self.screen, colour, (paper.centerx + 34 * (life - 1), 500), 10)

    def draw_incense(self, now: float, x: int, y: int, width: int) -> None:
        """A stick that burns from the right, with smoke over its end."""
        end = x + width * self.left_s(now) / ROUND_S
        pygame.draw.line(self.screen, "#d8c7a2", (x, y), (x + width, y), 3)
        pygame.draw.line(self.screen, "#7d4a2d", (x, y), (end, y), 6)
        if self.begun is not None:
            pygame.draw.circle(self.screen, "#ff7a2f", (end, y), 5 + math.sin(9 * now))
            smoke = [(end + 5 * math.sin(2.2 * now + 0.12 * up) * up / 40, y - 8 - up) for up in range(0, 44, 3)]
            pygame.draw.lines(self.screen, "#b9ad97", False, smoke, 2)
        else:
            self.write("the painter is at work …", self.small, "#8a7a66", (x + width // 2, y - 22))

    def draw_card(self, card: Card, now: float) -> None:
        open_by = min(1.0, (now - card.shown) * 4) if card.picture else 0.0
        place = card.place.move(round(9 * math.sin(60 * now) * max(0.0, 1 - 2 * (now - card.shaken))), 0)
        pygame.draw.rect(self.screen, "#0d0f1c", place.move(4, 6), border_radius=10)
        right = now - self.found_at < 0.8 and card is self.round.cards[self.round.wanted]
        hovered = place.collidepoint(pygame.mouse.get_pos())
        frame = GREEN if right else RED if now - card.shaken < 0.5 else GOLD if hovered else PAPER
        pygame.draw.rect(self.screen, frame, place, border_radius=10)
        inner = place.inflate(-12, -12)
        pygame.draw.rect(self.screen, DUSK, inner)
        if card.picture is None:
            for dot in range(3):
                up = 4 * max(0.0, math.sin(5 * now - dot))
                pygame.draw.circle(self.screen, GOLD, (inner.centerx + 16 * (dot - 1), inner.centery - up), 4)
            return
        width = max(1, round(inner.width * math.sin(open_by * math.pi / 2)))  # turned over
        picture = pygame.transform.smoothscale(card.picture, (width, inner.height))
        self.screen.blit(picture, picture.get_rect(center=inner.center))

    @property
    def outcome(self) -> str:
        if self.lives == 0:
            return "The incense has burnt down"
        return "All found!" if self.finds == self.rounds else f"{self.finds} of {self.rounds} found"

    def draw_end(self) -> None:
        self.write(self.outcome, self.title, PAPER, (WIDTH // 2, 210))
        self.write(f"{self.points:,} points", self.title, GOLD, (WIDTH // 2, 290))
        self.write(
            f"Play “{self.word}” against a friend: the same word deals the same cards.",
            self.text,
            PAPER,
            (WIDTH // 2, 380),
        )
        self.write("space: again    escape: leave", self.small, "#9aa0c0", (WIDTH // 2, 430))

    def write(self, text: str, font: pygame.font.Font, colour: str, centre: tuple[int, int]) -> None:
        image = font.render(text, True, colour)
        self.screen.blit(image, image.get_rect(center=centre))


def lay_out(cards: list[Card]) -> Iterator[Card]:
    """Cards in a grid to the right of the poster."""
    columns = {4: 2, 6: 3, 9: 3, 12: 4}[len(cards)]
    rows = len(cards) // columns
    area = pygame.Rect(POSTER + 30, 24, WIDTH - POSTER - 54, HEIGHT - 48)
    size = min((area.width - 20 * (columns - 1)) // columns, (area.height - 20 * (rows - 1)) // rows, 300)
    left = area.left + (area.width - columns * size - 20 * (columns - 1)) // 2
    top = area.top + (area.height - rows * size - 20 * (rows - 1)) // 2
    for number, card in enumerate(cards):
        card.place = pygame.Rect(
            left + number % columns * (size + 20), top + number // columns * (size + 20), size, size
        )
        yield card


def backdrop() -> pygame.Surface:
    """Waves of the night sea."""
    surface = pygame.Surface((WIDTH, HEIGHT))
    surface.fill(NIGHT)
    for row in range(HEIGHT // 24 + 3):
        for column in range(-1, WIDTH // 96 + 2):
            centre = (column * 96 + 48 * (row % 2), row * 24)
            for radius in (46, 34, 22):
                pygame.draw.circle(surface, NIGHT, centre, radius)
                pygame.draw.circle(surface, DUSK, centre, radius, 2)
    return surface


def answer(game: Game, now: float) -> str | None:
    """What the player does: `leave`, play `again`, or accuse somebody."""
    for event in pygame.event.get():
        if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
            return "leave"
        if event.type == pygame.KEYDOWN and event.key == pygame.K_SPACE and game.over:
            return "again"
        if event.type == pygame.MOUSEBUTTONDOWN and event.button == pygame.BUTTON_LEFT and not game.over:
            for card in game.round.cards:
                if card.place.collidepoint(event.pos):
                    game.accuse(card, now)
    return None


def play_by_itself(game: Game, now: float) -> None:
    """Find the right one after a second and a half; now and then accuse a wrong one first."""
    if game.begun is None or game.over or game.found:
        return
    wrong = game.round.cards[game.round.wanted - 1]
    if game.number % 4 == 3 and now - game.begun > 0.8 and wrong.shaken < game.begun:
        game.accuse(wrong, now)
    elif now - game.begun > 1.5:
        game.accuse(game.round.cards[game.round.wanted], now)


@click.command()
@click.option("--word", default=None, help="Deals the cards: whoever plays the same word plays the same match.")
@click.option("-m", "--model", default="builtin:student-1step", show_default=True)
@click.option("--process", is_flag=True, help="Draw in a process of its own.")
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option("--demo", is_flag=True, help="Play by itself, and leave at the end.")
@click.option(
    "--record", type=click.Path(path_type=Path), help="A folder for the last table (PNG) and the frames' times (JSON)."
)
def main(word: str | None, model: str, process: bool, rounds: int, demo: bool, record: Path | None) -> None:
    """Find the ninja that the poster means."""
    pygame.display.init()  # not pygame.init(): there is no sound to look for
    pygame.font.init()
    pygame.display.set_caption("Wanted!")
    screen, clock = pygame.display.set_mode((WIDTH, HEIGHT)), pygame.time.Clock()
    word = word or random.choice(("dragon", "lantern", "river", "maple", "thunder", "crane"))
    frames: list[float] = []
    table = screen.copy()
    try:
        with genin.Painter(model, process) as painter:
            game, said = Game(screen, painter, word, rounds), None
            while said != "leave" and not (demo and game.over):
                now = time.perf_counter()
                if (said := answer(game, now)) == "again":
                    painter.cancel()  # the old game's next round
                    game = Game(screen, painter, word, rounds)
                if demo:
                    play_by_itself(game, now)
                game.step(now)
                game.draw(now)
                if record is not None and game.begun is not None and not game.over and now - game.begun > 1:
                    table = screen.copy()
                pygame.display.flip()
                clock.tick(FPS)
                frames.append(round(1e3 * (time.perf_counter() - now), 2))
    except genin.GeninError as error:  # its text says what, where and what to do
        raise click.ClickException(str(error)) from error
    if record is not None:
        record.mkdir(parents=True, exist_ok=True)
        pygame.image.save(table, str(record / "table.png"))
        (record / "frames.json").write_text(json.dumps(frames), encoding="utf-8")
    pygame.quit()
    late = sum(frame > 20 for frame in frames)
    click.echo(f"{game.points:,} points; {len(frames):,} frames, {late} of them later than 20 ms")


if __name__ == "__main__":
    main()
