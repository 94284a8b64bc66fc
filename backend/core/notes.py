"""What a plan does without being told to: one plain sentence for each, shown under the plan by every client."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backend.core.plan import Plan, Source
from backend.core.registry import ModelSpec
from backend.core.schema import RANDOM_SEED, GenerationRequest, Mode
from backend.core.text import counted, is_blank

SAME_RATE = 0.005  # 29.97 and 30 frames per second count as one: over a minute that makes two frames
SHOWN = 60  # characters of a prompt that a note repeats
WORDS_NAMED = 8  # words that a note names
NUMBER = r"\d*[.,]?\d+"  # a comma is what half of Europe writes for the point
# The signs of a command as keyboards of East Asia write them: FULLWIDTH EXCLAMATION MARK to TILDE (U+FF01 to U+FF5E).
WIDE = {code + 0xFEE0: code for code in range(0x21, 0x7F)}

# compel writes a weight as `boat++` or `(a red boat)++`, which C++ and Notepad++ are not.
PLUSES = r"\([^()]+\)\+{2,}|\b\w+\+{3,}|\b(?!notepad\b)[^\W\d_]{3,}\+\+"
# [to:when] has its number after a word, or a decimal point, unlike "[at 10:30]" and "[Psalm 23:4]".
SWITCH = rf"\[[^\[\]:|]*[^\[\]:|\d\s]\s*:\s*{NUMBER}\s*\]|\[(?=[^\[\]:|]*[^\W\d_])[^\[\]:|]*:\s*\d*\.\d+\s*\]"
# BREAK in capitals begins a new part of the prompt, where it is not the text of a sign.
BEFORE_A_TEXT = ("a", "an", "the", "says", "say", "saying", "reads", "read", "reading", "word", "words", "text", "sign")
BREAK = (
    "".join(rf"(?<!\b{word} )" for word in BEFORE_A_TEXT) + r"(?<![A-Z] )(?<![^\s,.;])BREAK(?![^\s,.;])(?! [A-Z]{2})"
)
# AND in capitals, between words that are not, blends two prompts.
BLEND = r"(?<=[^\sA-Z]\s)AND(?=\s\S)(?!\s[A-Z]{2})(?!\s(?:button|gate|key|operator|sign)\b)"
BLEND = "".join(rf"(?<!\b{word} )" for word in BEFORE_A_TEXT) + BLEND
# What Midjourney and scripts of Stable Diffusion read behind two dashes: with a number, with words, and alone.
OPTIONS = (
    r"(?<!\S)--(?:(?:ar|aspect|chaos|c|cfg|cw|fps|height|iw|motion|niji|q|quality|s|seed|steps|stop|stylize|sw|v|version"
    r"|weird|width|w)[ =]+[\d.:x]+|(?:cref|neg|negative|no|sref|style)[ =]+\w\S*|(?:hd|raw|tile)(?!\S))"
)

# What other programs read as commands in a prompt, what they call it, and what to use here.
SYNTAX = (
    (
        re.compile(r"<\s*(?:lora|lyco|lycoris)\s*:[^<>]*>", re.IGNORECASE),
        "adds no LoRA: choose it in the field LoRAs (loras in REST, --lora on the command line)",
    ),
    (
        re.compile(r"<\s*hypernet\s*:[^<>]*>", re.IGNORECASE),
        "adds no hypernetwork: the models here take none",
    ),
    # A weight has a decimal point or follows a word, unlike the time in "(at 10:30)" and the shape in "(16:9)".
    (
        re.compile(
            rf"\([^()]*(?:[^()\d\s]\s*:\s*[+-]?{NUMBER}|:\s*[+-]?\d*\.\d+)\s*\)|\(\([^()]+\)\)|\[\[[^\[\]]+\]\]|\{{\{{[^{{}}|]+\}}\}}|{PLUSES}",
            re.IGNORECASE,
        ),
        "gives no weight: say what matters first and in more words",
    ),
    (
        re.compile(r"\{[^{}]*\|[^{}]*\}|(?<!\w)__[^\W_][\w./*-]*__(?!\w)"),
        "makes no choice: write one of them, and queue a variation for each of the others",
    ),
    (
        re.compile(rf"\[[^\[\]|]*\|[^\[\]]*\]|\[[^\[\]:]*:[^\[\]:]*:\s*{NUMBER}\s*\]|{SWITCH}"),
        "changes nothing on the way: use the storyboard for what happens next",
    ),
    (re.compile(r"(?<!\w)embedding:\w+", re.IGNORECASE), "adds no embedding: the models here take none"),
    (re.compile(f"{BREAK}|{BLEND}"), "begins no new part: the model reads the prompt as one text"),
    (re.compile(OPTIONS), "sets nothing: choose the shape, the seed and the like in their own fields"),
)


@dataclass(frozen=True, slots=True)
class Cut:
    """A prompt of which the text encoder reads only the first `limit` tokens. `kept` is the text that it reads, empty
    where only the number of words is known.
    """

    limit: int
    kept: str = ""


CutOf = Callable[[str], Cut | None]


def notes_of(
    request: GenerationRequest, plan: Plan, spec: ModelSpec, source: Source | None, cut_of: CutOf
) -> tuple[str, ...]:
    """The notes of a plan. `cut_of` says of a text whether the model certainly reads only its beginning."""
    return (
        *_unknown(plan),
        *_negative_prompt(request, plan, spec),
        *_prompts(request, plan, spec, cut_of),
        *_orientation(request, plan),
        *_rate(plan, source),
        *_seed(request),
        *draft_notes(plan),
    )


def _unknown(plan: Plan) -> Iterator[str]:
    if not plan.unknown_words:
        return
    named, more = plan.unknown_words[:WORDS_NAMED], len(plan.unknown_words) - WORDS_NAMED
    rest = f" and {counted(more, 'more word')}" if more > 0 else ""
    yield f"{plan.model_title} does not know: {', '.join(map(_start_of, named))}{rest}. It will draw something else."


def _negative_prompt(request: GenerationRequest, plan: Plan, spec: ModelSpec) -> Iterator[str]:
    if is_blank(request.negative_prompt):
        return
    if not spec.denoises:
        yield f"The negative prompt has no effect: {spec.title} does not read it."
    elif plan.guidance_scale <= 1:
        yield "The negative prompt has no effect at guidance 1; it needs a guidance above 1."


def _prompts(request: GenerationRequest, plan: Plan, spec: ModelSpec, cut_of: CutOf) -> Iterator[str]:
    """Of every prompt that is read: where it is cut, and what in it is no command here."""
    texts = {"The prompt": request.prompt}
    if spec.denoises and plan.guidance_scale > 1:
        texts["The negative prompt"] = request.negative_prompt
    texts |= {f"Prompt {n} of the storyboard": text for n, text in enumerate(request.skyreels.storyboard, start=1)}
    for name, text in texts.items():
        if spec.denoises and (cut := cut_of(text)):
            where = f'is cut after "{_end_of(cut.kept)}"' if cut.kept else "is cut"
            yield f"{name} {where}: the model reads {cut.limit} tokens, and the rest is left out."
    for pattern, what in SYNTAX:
        found = (
            (name, text[match.start() : match.end()])
            for name, text in texts.items()
            for match in pattern.finditer(text.translate(WIDE))
        )
        if first := next(found, None):
            name, words = first
            yield f"{name} has {_start_of(words)}, which is read as plain words and {what}."


def _orientation(request: GenerationRequest, plan: Plan) -> Iterator[str]:
    material = "video" if request.video else "picture"
    if request.follows_material and request.mode is not Mode.TEXT_TO_VIDEO:
        shape = "portrait" if plan.height > plan.width else "landscape" if plan.width > plan.height else "square"
        yield f"The shape follows the {material}: {shape}, {plan.width}x{plan.height}."


def _rate(plan: Plan, source: Source | None) -> Iterator[str]:
    if source is None or not source.fps or abs(source.fps - plan.fps) <= SAME_RATE * plan.fps:
        return
    how = "are left out" if source.fps > plan.fps else "are repeated"
    yield f"The source has {source.fps:.4g} frames per second and the video {plan.fps}: some of its frames {how}."


def _seed(request: GenerationRequest) -> Iterator[str]:
    if request.seed == RANDOM_SEED:
        yield f"Seed {RANDOM_SEED} means random: a seed is drawn when the video is queued, and stored with it."


def draft_notes(plan: Plan) -> Iterator[str]:
    """The notes about a draft alone."""
    if plan.new_frames < plan.num_frames:
        why = "are begun by then" if plan.ar_step else "are in the first window"
        yield f"The draft shows {plan.new_frames} of the {plan.num_frames} new frames: those that {why}."


def _start_of(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}…"


def _end_of(words: str) -> str:
    """The last words, at most SHOWN characters."""
    return words if len(words) <= SHOWN else f"…{words[-SHOWN:]}"
