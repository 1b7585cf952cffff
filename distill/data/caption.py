"""Captions by a model, for the pictures that have none.

Any image-to-text model that transformers loads without remote code will do (BLIP by default); a local folder needs no network.
Existing captions are kept. `metadata.jsonl` is replaced as a whole after every hundred pictures or so, so an interrupted run
continues where it stopped; every other column and number in it stays as it was.

A template asks one thing at a time: "{character}, {action}, {environment}, {emotion}" puts four questions about each picture, joins
the answers, and keeps each in a column of its name. A chat model is asked a question; a captioning model completes the beginning of
a sentence.

Not here: judging captions. A caption model's words are coarse for stylised pictures: read some before training on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from PIL import Image

from genin.dataset.files import PictureError, read_picture
from genin.dataset.text import clean
from genin.distill.data.dataset import read_facts
from genin.distill.data.find import Dropped
from genin.distill.data.prepare import with_trigger
from genin.distill.data.report import rewrite_captions
from genin.distill.data.rows import Filling
from genin.runtimes.arguments import settle, whole
from genin.runtimes.errors import InputError, on_interrupt

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # no pickles
SAVE_EVERY = 100


@dataclass(frozen=True)
class Question:
    """What is asked about a picture: a question for a chat model, and the beginning of a sentence for a captioning model."""

    question: str
    beginning: str


QUESTIONS = {
    "caption": Question("Describe this picture in one sentence.", ""),
    "character": Question("Who is in this picture? Answer in a few words.", "the character in this picture is"),
    "action": Question("What are they doing? Answer in a few words.", "the character is"),
    "environment": Question("Where is this? Answer in a few words.", "the background is"),
    "emotion": Question("What do they feel? Answer in one word.", "the character looks"),
}


@dataclass(frozen=True)
class Template:
    """Text with names of questions in braces. `questions` are asked in their order in the text."""

    text: str
    questions: Mapping[str, Question]

    @classmethod
    def of(cls, text: str, asked: Mapping[str, str] | None = None) -> Template:
        """`asked`: the user's own questions, by name. Errors: InputError for a name without a question, or broken braces."""
        known = {**QUESTIONS, **{name: Question(words, words) for name, words in (asked or {}).items()}}
        try:
            parts = [part for part in Formatter().parse(text) if part[1] is not None]
        except ValueError as error:
            raise InputError(
                f"the template cannot be read ({error})", where=text, remedy="write {character}"
            ) from error
        if any(form or conversion for _, _, form, conversion in parts):
            raise InputError("the template has a format after a name", where=text, remedy="write {character}")
        names = [str(name) for _, name, _, _ in parts]
        for name in names:
            if name not in known:
                remedy = f"ask it with --ask '{name}=…', or use: {', '.join(known)}"
                raise InputError(f"the template asks for '{name}', which has no question", where=text, remedy=remedy)
        return cls(text, {name: known[name] for name in dict.fromkeys(names)})

    def filled(self, answers: Mapping[str, str]) -> str:
        """The caption; a question without an answer leaves no comma behind."""
        said = self.text.format_map({name: answers.get(name, "") for name in self.questions})
        parts = [part.strip() for part in said.split(",")]
        return clean(", ".join(part for part in parts if part))


PLAIN = Template.of("{caption}")


@dataclass(frozen=True)
class CaptionOptions:
    """How `caption` asks; the defaults are those of `genin data caption`.

    Attributes:
        model: folder or hub name of an image-to-text model of transformers.
        template: text with names of questions in braces, "{character}, {action}"; None is one sentence about the picture.
        questions: your own questions, by the names that the template uses.
        max_tokens: the longest answer.
        batch_size: pictures at a time.
    """

    model: str = DEFAULT_MODEL
    template: str | None = None
    questions: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int = 40
    batch_size: int = 8

    def __post_init__(self) -> None:
        settle(
            self,
            max_tokens=whole(self.max_tokens, "max_tokens", 1, 200),
            batch_size=whole(self.batch_size, "batch_size"),
        )
        if self.questions and self.template is None:
            raise InputError("--ask needs a --template that uses its name")
        self.parsed()

    def parsed(self) -> Template:
        """Errors: InputError for a template that cannot be read, or asks what has no question."""
        return PLAIN if self.template is None else Template.of(self.template, self.questions)


@dataclass(frozen=True)
class CaptionReport:
    """`captioned` pictures were given a caption; `existing` had one; `failed` still have none."""

    captioned: int
    existing: int
    failed: tuple[Dropped, ...]


class CaptionModel:
    """An image-to-text model of transformers, greedy, so that the same picture gets the same caption."""

    def __init__(self, name: str, *, max_new_tokens: int = 40) -> None:
        """Load a local folder or a hub model. Errors: InputError if its weights are unavailable, or are not a captioning
        model's."""
        folder = _model_folder(name)
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        level = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = clean(error)[:160]
            remedy = "give an image-to-text model of transformers, BLIP for one"
            raise InputError(f"the caption model cannot be loaded ({reason})", where=name, remedy=remedy) from error
        finally:
            logging.set_verbosity(level)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device).eval()
        self.max_new_tokens = max_new_tokens

    def answers(self, pictures: Sequence[Image.Image], question: Question) -> list[str]:
        """One answer per picture, without the words of the question; empty where the model says nothing."""
        import torch

        chats = bool(getattr(self.processor, "chat_template", None))
        inputs = (self._chat if chats else self._beginning)(list(pictures), question).to(self.device)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1)
        if chats:  # it repeats the question, token by token
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        said = [clean(text) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]
        given = "" if chats else question.beginning.lower()
        return [text[len(given) :].strip(" .") if given and text.lower().startswith(given) else text for text in said]

    def _chat(self, pictures: list[Image.Image], question: Question) -> Any:
        content = [{"type": "image"}, {"type": "text", "text": question.question}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        images = [[picture] for picture in pictures]
        return self.processor(images=images, text=[prompt] * len(images), padding=True, return_tensors="pt")

    def _beginning(self, pictures: list[Image.Image], question: Question) -> Any:
        text = {"text": [question.beginning] * len(pictures)} if question.beginning else {}
        return self.processor(images=pictures, **text, return_tensors="pt")


def _model_folder(name: str) -> Path:
    """A local folder as it is; a hub name => its snapshot, downloaded first so that a missing network is one quick error."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.count("/") != 1 or name[0] in "./~":
        raise InputError("no such caption model", where=name, remedy=f"give its folder, or a name: {DEFAULT_MODEL}")
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(MODEL_FILES)))
    except RepositoryNotFoundError as error:
        raise InputError(
            "the hub has no such caption model", where=name, remedy=f"for example {DEFAULT_MODEL}"
        ) from error
    except (OSError, ValueError) as error:  # what the hub's client raises for the network and for wrong names
        remedy = "check the network, or give the folder of a downloaded BLIP model as --model"
        raise InputError("the caption model cannot be downloaded", where=f"hub:{name}", remedy=remedy) from error


def caption(
    folder: Path,
    options: CaptionOptions | None = None,
    *,
    bar: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> CaptionReport:
    """Caption the pictures of a dataset folder that have no caption. The model is loaded only if there are any.

        report = caption(Path("data/mine"), CaptionOptions(template="{character}, {action}"))

    Args:
        folder: the dataset; answers to a template's questions are kept in columns of their names; existing values are kept.
        options: the model, and what it is asked.
        bar: `bar(total)` gives a function that counts pictures done.

    Returns: how many pictures have a caption now, and those that have none.
    Errors: InputError (no pictures, wrong metadata, no model).
    """
    options = options or CaptionOptions()
    table = Filling(folder)
    rows = table.rows
    trigger = str(read_facts(folder).get("options", {}).get("trigger", ""))
    missing = [row for row in rows if not clean(row.get("text") or "")]
    existing = len(rows) - len(missing)
    if not missing:
        return CaptionReport(0, existing, ())
    model, template = CaptionModel(options.model, max_new_tokens=options.max_tokens), options.parsed()
    advance = bar(len(missing))
    failed: list[Dropped] = []
    unsaved: list[dict[str, Any]] = []
    with on_interrupt("the captions so far are saved; the same command goes on"):
        try:
            for start in range(0, len(missing), options.batch_size):
                batch = missing[start : start + options.batch_size]
                readable = _readable(folder, batch, failed)
                failed += _caption_batch(model, template, readable, trigger)
                unsaved += [row for row, _ in readable]
                advance(len(batch))
                if len(unsaved) >= SAVE_EVERY:
                    table.save(unsaved)
                    unsaved = []
        finally:
            if unsaved:
                table.save(unsaved)
            rewrite_captions(folder)
    return CaptionReport(len(missing) - len(failed), existing, tuple(failed))


def _readable(
    folder: Path, rows: Sequence[dict[str, Any]], failed: list[Dropped]
) -> list[tuple[dict[str, Any], Image.Image]]:
    """The rows whose pictures can be read, with their pictures; the others go to `failed`."""
    readable = []
    for row in rows:
        try:
            readable.append((row, read_picture(folder / row["file_name"])))
        except PictureError as error:
            failed.append(Dropped(row["file_name"], error.what))
    return readable


def _caption_batch(
    model: CaptionModel, template: Template, batch: Sequence[tuple[dict[str, Any], Image.Image]], trigger: str
) -> list[Dropped]:
    """Fill in the rows' captions and columns; those for which the model found no words."""
    if not batch:
        return []
    pictures, failed = [picture for _, picture in batch], []
    answers = {name: model.answers(pictures, question) for name, question in template.questions.items()}
    for index, (row, _) in enumerate(batch):
        values = {name: clean(row.get(name) or "") or texts[index] for name, texts in answers.items()}
        text = template.filled(values)
        if text:
            row["text"] = with_trigger(trigger, text)
            row.update({name: value for name, value in values.items() if value and name != "caption"})
        else:
            failed.append(Dropped(row["file_name"], "the model found no words"))
    return failed
