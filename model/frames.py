"""Several pictures in one prompt, and in which of them a statement holds.

The pictures of a training batch serve again, in groups, so that asking costs no seeing. Knows nothing of how they were drawn.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from embedded import Batched, Windows
from people import SEEN_RELATIONS, WideAsker
from tasks import CHINESE, ENGLISH, Question
from text import ALONE, WINDOW, PackedText, padded, special_ids
from wordings import SAID_RELATIONS

from qwen3vl_ros.questions import Holds

# A statement of {a}, and of {a}, {b} with {rel} for a relation of SAID_RELATIONS.
STATEMENTS = {
    "en": {
        "there": (
            "There is a {a}.",
            "A {a} is there.",
            "A {a} can be seen.",
            "A {a} stands on the table.",
            "A {a} is in the picture.",
            "I see a {a}.",
            "There is a {a} somewhere.",
            "We have got a {a}.",
            "A {a} is here.",
            "The picture shows a {a}.",
            "There is a {a} on the table.",
            "I can find a {a}.",
        ),
        "state": (
            "The {a} is {rel} the {b}.",
            "The {a} stands {rel} the {b}.",
            "A {a} is {rel} the {b}.",
            "There is a {a} {rel} the {b}.",
            "I see the {a} {rel} the {b}.",
            "A {a} stands {rel} the {b}.",
            "The {a} is placed {rel} the {b}.",
            "The {a} can be seen {rel} the {b}.",
            "We find the {a} {rel} the {b}.",
        ),
    },
    "zh": {
        "there": (
            "有{a}。",
            "图中有{a}。",
            "能看到{a}。",
            "桌子上有{a}。",
            "这里有{a}。",
            "我看到{a}。",
            "照片里有{a}。",
            "有一个{a}。",
        ),
        "state": ("{a}在{b}{rel}。", "{a}在{b}的{rel}。", "{a}放在{b}{rel}。", "{b}{rel}有{a}。", "{b}的{rel}是{a}。"),
    },
}
HELD_OUT = {
    "en": {"there": ("You can see a {a}.", "A {a} is on the table."), "state": ("You see the {a} {rel} the {b}.",)},
    "zh": {"there": ("你能看到{a}。", "画面中有{a}。"), "state": ("{a}位于{b}的{rel}。",)},
}


def statement(askers: list[WideAsker], rng: np.random.Generator, held_out: bool = False) -> Question | None:
    """Whether a statement holds in each of the views of `askers`, all of one language; None where a view leaves it open."""
    first = askers[int(rng.integers(len(askers)))]
    language, speaker = first.language, first.sayings.speaker
    forms = (HELD_OUT if held_out else STATEMENTS)[speaker.language]
    pairs = _pairs(first) if rng.random() < 0.5 else []
    if pairs:
        a, relation, b = pairs[int(rng.integers(len(pairs)))]
        holds = [_related(asker, a, relation, b) for asker in askers]
        form = speaker.choose(forms["state"])
        said = speaker.choose(SAID_RELATIONS[speaker.language][relation])
        text = form.format(a=language.name(a), b=language.name(b), rel=said)
    else:
        a = first.name(int(rng.choice(first.named))) if first.named and rng.random() < 0.8 else first.absent_phrase()
        a = a.split()[-1] if rng.random() < 0.3 else a
        holds = [None if a in asker.doubtful else bool(asker.matching(a)) for asker in askers]
        text = speaker.choose(forms["there"]).format(a=language.name(a))
    if None in holds:
        return None
    start, gap = float(rng.choice((0.0, 0.5, 2.0, 12.0))), float(rng.choice((0.5, 1.0, 1.0, 2.0)))
    asked = Holds(speaker._grammar(text), tuple(start + gap * i for i in range(len(askers))))
    answer = "[" + ", ".join('"yes"' if h else '"no"' for h in holds) + "]"
    return Question("frames", asked.prompt(), answer)


def _pairs(asker: WideAsker) -> list[tuple[str, str, str]]:
    """(name, relation, name) that hold in a view."""
    unique, found = asker.unique(), []
    for a in unique:
        for b in unique:
            if a == b:
                continue
            if asker.thing(a).on == b:
                found += [(asker.name(a), "in" if asker.thing(b).kind == "bowl" else "on", asker.name(b))] * 3
            found += [
                (asker.name(a), relation, asker.name(b))
                for relation, seen in SEEN_RELATIONS.items()
                if asker.relation(a, b)[seen]
            ]
    return found


def _related(asker: WideAsker, a: str, relation: str, b: str) -> bool | None:
    """Whether it holds in a view; where one of them is not there, it does not. None where that is open."""
    if a in asker.doubtful or b in asker.doubtful:
        return None
    first, second = asker.matching(a), asker.matching(b)
    if not first or not second:
        return False
    if len(first) + len(second) > 2:
        return None
    if relation in ("on", "in"):
        return asker.thing(first[0]).on == second[0]
    return asker.relation(first[0], second[0])[SEEN_RELATIONS[relation]]


class PackedFrames:
    """Questions about a group of pictures, in one window behind the prefix that holds them all."""

    def __init__(self, packer: PackedText, pictures: int):
        ids, encode = special_ids(), packer.encode
        one = [*encode("<|vision_start|>"), *[ids["<|image_pad|>"]] * packer.visual_tokens, *encode("<|vision_end|>")]
        self.packer, self.pictures = packer, pictures
        self.prefix = packer.opening + one * pictures
        self.positions, self.next_position = packer._positions(self.prefix)
        self.visual = np.flatnonzero(np.array(self.prefix) == ids["<|image_pad|>"])

    def pack(self, samples, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """ids T, positions 3,T, segments T, weights T."""
        ids, positions, segments, weights = [], [], [], []
        for segment in range(1, 9):
            language = CHINESE if rng.random() < self.packer.chinese_share else ENGLISH
            askers = [WideAsker(s, rng, language, wide=True) for s in samples]
            question = statement(askers, rng)
            if question is None:
                continue
            prompt = self.packer.encode(question.prompt) + self.packer.between
            answer = self.packer.encode(question.answer) + [self.packer.end]
            if len(ids) + len(prompt) + len(answer) > WINDOW:
                continue
            decides = [3.0 if "yes" in t or "no" in t else 0.3 for t in map(self.packer.decoded, answer)]
            ids += prompt + answer
            weights += [0.0] * len(prompt) + decides
            positions += range(self.next_position, self.next_position + len(prompt) + len(answer))
            segments += [segment] * (len(prompt) + len(answer))
        whole = np.concatenate([self.positions, np.tile(padded(positions, WINDOW, 0), (3, 1))], 1)
        before = len(self.prefix)
        return (
            np.concatenate([self.prefix, padded(ids, WINDOW, self.packer.pad)]),
            whole,
            np.concatenate([[0] * before, padded(segments, WINDOW, -1)]),
            np.concatenate([[0.0] * before, padded(weights, WINDOW, 0.0)]).astype(np.float32),
        )

    def pack_all(self, samples, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What `loss` needs of questions about groups of neighbours among these samples; empty for too few of them."""
        n = self.pictures
        packed = [self.pack(samples[at : at + n], rng) for at in range(0, len(samples) - n + 1, n)]
        return dict(zip(("ids", "positions", "segments", "weights"), map(np.stack, zip(*packed))))

    def loss(self, net: Batched, merged, deep, packed) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted cross-entropy of the answers. merged, deep: features of the samples; packed: tensors of `pack_all`."""
        if not packed or not (packed["weights"] > 0).any():
            return torch.zeros((), device=merged.device), {}
        ids, positions, segments, weights = packed.values()
        groups = len(ids)
        join = lambda x: x[: groups * self.pictures].reshape(groups, -1, x.shape[-1])  # noqa: E731
        mask = Windows(segments, len(self.prefix), WINDOW, ALONE)
        visual = torch.from_numpy(self.visual).to(merged.device)
        hidden = net.read(join(merged), [join(d) for d in deep], ids, positions.transpose(0, 1), mask, visual)
        at = weights[:, 1:] > 0
        logits = F.linear(hidden[:, :-1][at], net.model.lm_head.weight).float()
        target, weight = ids[:, 1:][at], weights[:, 1:][at]
        loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        right = (logits.argmax(-1) == target)[weight > 1]
        return 0.5 * loss, dict(frames=loss.detach(), frames_right=right.float().mean())
