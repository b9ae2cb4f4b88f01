"""The embedded model's tokenizer and processor files, and the packing of questions into training sequences.

The tokenizer is byte-level BPE with single digits, as Qwen's is, but small: the literal parts of our prompts and answers are
single tokens, every other text falls back to words, letters and bytes. The chat template and the roles of the
special tokens are Qwen3-VL's.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data import INPUT_SIZE, Sample
from embedded import MERGE, PATCH, POINTING_LAYERS, TEMPORAL, VOCABULARY, Batched, Windows
from people import WideAsker
from targets import SCALES, coordinates, places_of, shown_by, zone_of
from tasks import CHINESE, ENGLISH, PHRASES, WORDS, Question
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from vocabulary import LITERALS, characters, words

from qwen3vl_ros.sim.scenes import GAUGE_SCALES
from qwen3vl_ros.sim.specs import SIGN_TEXTS, ZONES

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
POINTING_WEIGHT = 0.3
TEACHER_WEIGHT = 2.5
TEACHER_SURE = 0.1  # of what is right; of a coordinate's last digit a good teacher is no surer
WINDOW = 128  # tokens that see no others but those of the prefix
ALONE = 1000  # segments from here on do not see the picture
MOST = 6  # things that fit a name are counted up to this
ROWS = (
    "ids",
    "positions",
    "segments",
    "weights",
    "said_of",
    "fits",
)  # what PackedText.pack makes, in its order: a row a token
SHOWN = "places", "scale", "reading", "zone", "word"  # and of each name that fits something
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' or 'image' in part or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@functools.cache
def tokenizer() -> Tokenizer:
    """Bytes 0..255, then merges that spell our words, then one token a literal; special tokens at the end, as Qwen has them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    spelt = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for word in ("user", "assistant", "system", *WORDS):  # merge each word from its left, sharing what others merged
        parts = list(spelt.pre_tokenize_str(word)[0][0])
        while len(parts) > 1:
            if parts[0] + parts[1] not in vocabulary:
                vocabulary[parts[0] + parts[1]] = len(vocabulary)
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    result = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    result.normalizer = normalizers.NFC()
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|\p{L}+|[^\s\p{L}\p{N}]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    result.decoder = decoders.ByteLevel()
    result.add_tokens([AddedToken(p, normalized=False, special=False) for p in (*PHRASES, *LITERALS)])
    spelt = {w for w in words() if len(result.encode(w, add_special_tokens=False).ids) > 1}
    result.add_tokens([AddedToken(w, normalized=False, special=False, single_word=True) for w in sorted(spelt)])
    result.add_tokens([AddedToken(c, normalized=False, special=False) for c in characters()])
    result.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    if result.get_vocab_size() > VOCABULARY:
        raise ValueError(
            f"{result.get_vocab_size()} tokens do not fit the embedding of {VOCABULARY}; raise embedded.VOCABULARY"
        )
    return result


def special_ids() -> dict[str, int]:
    return {t: tokenizer().token_to_id(t) for t in SPECIAL}


def write_processor(folder: Path) -> None:
    """The files a Qwen3-VL directory has beside its weights and config."""
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    area = INPUT_SIZE[0] * (INPUT_SIZE[1] + PATCH)  # 76800: 640x480 becomes 320x224
    files = {
        "tokenizer_config.json": dict(
            tokenizer_class="PreTrainedTokenizerFast",
            model_max_length=4096,
            clean_up_tokenization_spaces=False,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=list(SPECIAL),
        ),
        "preprocessor_config.json": dict(
            image_processor_type="Qwen2VLImageProcessor",
            processor_class="Qwen3VLProcessor",
            patch_size=PATCH,
            merge_size=MERGE,
            temporal_patch_size=TEMPORAL,
            size=dict(shortest_edge=area, longest_edge=area),
            do_convert_rgb=True,
            do_resize=True,
            do_rescale=True,
            do_normalize=True,
            rescale_factor=1 / 255,
            resample=3,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        "generation_config.json": dict(
            do_sample=False,
            eos_token_id=[special_ids()["<|im_end|>"], special_ids()["<|endoftext|>"]],
            pad_token_id=special_ids()["<|endoftext|>"],
        ),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class GroundingHead(nn.Module):
    """What a name in a prompt should have become once it was looked up: how many things fit it, where the first is, and, if
    that is a dial or a sign, what it shows.

    Reads the decoder in its middle, at the last token of each name. Whether there is such a thing at all, yes or no, which
    box, which value: all answers hang on this, and none of them says it as plainly. No part of the exported checkpoint.
    """

    def __init__(self, width: int):
        super().__init__()
        self.sizes = MOST + 1, 400, len(GAUGE_SCALES), 100
        self.more = len(SCALES) - len(GAUGE_SCALES), len(ZONES) + 1, len(SIGN_TEXTS)
        self.out = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes))) for _ in POINTING_LAYERS
        )
        self.wide = nn.ModuleList(nn.Linear(width, sum(self.more)) for _ in POINTING_LAYERS)

    def loss(
        self, states: list[torch.Tensor], count: torch.Tensor, shown: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """states: M,D of each layer; count M; shown: places M,4,100, zero where there is nothing; of dials, scale M (-1: no
        dial), zone M and reading M,100; of signs, word M (-1: no sign); as the tower learns them (targets.py)."""
        some, dial, sign = count > 0, shown["scale"] >= 0, shown["word"] >= 0
        total, parts = 0.0, {}
        if not some.any():  # too small a batch; a mean of nothing would spoil the whole step
            return torch.zeros((), device=count.device), {}
        for head, wide, state in zip(self.out, self.wide, states):
            normed = head[0](state.float())
            said, where, which, reading = head[1](normed).split(self.sizes, -1)
            more, zone, word = wide(normed).split(self.more, -1)
            number = F.cross_entropy(said, count)
            place = -(where[some].view(-1, 4, 100).log_softmax(-1) * shown["places"][some]).sum(-1).mean()
            total = total + 0.3 * number + 0.1 * place
            parts |= dict(fits=(said.argmax(-1) == count).float().mean(), found=place.detach())
            if dial.any():
                which, read = torch.cat([which, more], -1), F.cross_entropy(reading[dial], shown["reading"][dial])
                total = total + 0.3 * F.cross_entropy(which[dial], shown["scale"][dial]) + 0.3 * read
                total = total + 0.15 * F.cross_entropy(zone[dial], shown["zone"][dial])
                parts |= dict(
                    told_scale=(which.argmax(-1) == shown["scale"])[dial].float().mean(), told_reading=read.detach()
                )
            if sign.any():
                total = total + 0.3 * F.cross_entropy(word[sign], shown["word"][sign])
                parts |= dict(told_word=(word.argmax(-1) == shown["word"])[sign].float().mean())
        return total, parts


@dataclass
class _Window:
    """What stands in one window of a packed sequence, a list a token; first: the first thing that each name fits, or None."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    said_of: list[int] = field(default_factory=list)
    fits: list[int] = field(default_factory=list)
    first: list[int | None] = field(default_factory=list)


def padded(values: list, width: int, fill) -> np.ndarray:
    return np.array(values + [fill] * (width - len(values)))


class PackedText:
    """Questions and answers of one image, packed behind its shared prefix into windows, a fixed number of tokens in all.

    A question that is longer than a window is left out. chinese_share: of the questions. pictured_only: leave the others to
    alone.PackedAlone. Each pair sees the prefix and itself; its positions go on from the prefix, as if it were alone.
    """

    def __init__(
        self,
        pack_tokens: int,
        visual_tokens: int,
        grid: tuple[int, int],
        chinese_share: float = 0.25,
        pictured_only: bool = False,
    ):
        ids = special_ids()
        encode = self.encode
        self.opening = encode("<|im_start|>user\n")  # of a question without a picture
        head = encode("<|im_start|>user\n<|vision_start|>")
        self.visual = slice(len(head), len(head) + visual_tokens)
        self.prefix = head + [ids["<|image_pad|>"]] * visual_tokens + encode("<|vision_end|>")
        self.between, self.end = encode("<|im_end|>\n<|im_start|>assistant\n"), ids["<|im_end|>"]
        self.pad, self.capacity, self.chinese_share = ids["<|endoftext|>"], pack_tokens, chinese_share
        self.window, self.pictured_only = WINDOW, pictured_only
        if pack_tokens % WINDOW:
            raise ValueError(f"pack_tokens {pack_tokens} must be a multiple of a window's {WINDOW} tokens")
        self.openers = {tokenizer().token_to_id(p) for p in PHRASES if p.endswith('_2d": [')}
        self.closers = {tokenizer().token_to_id(p) for p in PHRASES if p.startswith('"}')} - self.openers
        self.digits = {tokenizer().token_to_id(d) for d in "0123456789"}
        self.grid, self.visual_tokens = grid, visual_tokens
        self.positions, self.next_position = self._positions(self.prefix)

    def _positions(self, prefix: list[int]) -> tuple[np.ndarray, int]:
        """(3,T of a prefix with one or more images, the position that follows it), as Qwen3-VL counts them."""
        slot, at, i, parts = special_ids()["<|image_pad|>"], 0, 0, []
        while i < len(prefix):
            if prefix[i] == slot:
                rows, columns = np.indices(self.grid).reshape(2, -1) + at
                parts.append(np.stack([np.full(self.visual_tokens, at), rows, columns]))
                i, at = i + self.visual_tokens, int(parts[-1].max()) + 1
            else:
                parts.append(np.full((3, 1), at))
                i, at = i + 1, at + 1
        return np.concatenate(parts, 1), at

    @staticmethod
    @functools.lru_cache(50_000)
    def _encoded(text: str) -> tuple[int, ...]:
        return tuple(tokenizer().encode(text, add_special_tokens=False).ids)

    @classmethod
    def encode(cls, text: str) -> list[int]:
        return list(cls._encoded(text))

    @staticmethod
    @functools.lru_cache(5_000)
    def decoded(token: int) -> str:
        return tokenizer().decode([token], skip_special_tokens=False)

    def pair(self, question: Question) -> tuple[list[int], list[float], list[int], dict[int, tuple[int, ...]]]:
        """Token ids, the weight of each as a thing to be predicted (0: the prompt), the things each is said of as bits, and
        the things that fit the name which ends at a token of the prompt."""
        prompt = [] if question.pictured else list(self.opening)
        prompt += self.encode(question.prompt) + self.between
        answer = self.encode(question.answer) + [self.end]
        names, said_of, at = {}, [0] * len(prompt), 0
        for name, things in question.mentions:
            ids = self.encode(name)
            found = [i for i in range(at, len(prompt)) if prompt[i : i + len(ids)] == ids]
            if not found and question.loose:
                continue
            if not found:
                raise ValueError(
                    f"the prompt {question.prompt!r} does not hold the name {name!r} that it is said to mention"
                )
            at = found[0] + len(ids)
            if things is not None:
                names[at - 1], said_of[at - 1] = things, sum(1 << i for i in things)
        if not question.answer.startswith("```"):
            return (
                prompt + answer,
                [0.0] * len(prompt) + self._weights_of_words(question, answer),
                said_of + [sum(1 << i for i in question.things)] * len(answer),
                names,
            )
        digits = [i in self.digits for i in answer]
        weights, count, closed = [], -1, False
        for i, token in enumerate(answer):
            opens, closes = token in self.openers, token in self.closers
            count += opens
            closed |= closes
            said_of.append(1 << question.things[count] if count >= 0 and not closed else 0)
            # Whether there is a thing, or one more, decides more than where it ends; the last digit of a coordinate is a
            # thousandth of the image, mostly noise, and must not drown the others.
            tens = digits[i] and i + 2 < len(digits) and digits[i + 1] and not digits[i + 2]
            weights.append(
                3.0
                if i == 0
                else 2.0
                if opens or closes
                else 0.15
                if digits[i] and not digits[i + 1]
                else 0.6
                if tens
                else 1.0
            )
        return prompt + answer, [0.0] * len(prompt) + weights, said_of, names

    def _weights_of_words(self, question: Question, answer: list[int]) -> list[float]:
        """A word or a number that decides all is one token among a hundred; in a sentence each counts; without a picture, less:
        such questions are many, and learned sooner."""
        if len(answer) <= 6:
            return [3.0] * len(answer[:-1]) + [1.0]
        weights = [1.5 if question.pictured else 0.7] * len(answer)
        if question.kind == "dial":  # the last digit of a coordinate, after the brackets open
            inside = False
            for i, token in enumerate(answer):
                text = self.decoded(token)
                inside = (inside or text.endswith("[")) and "]}" not in text
                if inside and token in self.digits:
                    weights[i] = 1.0 if i + 1 < len(answer) and answer[i + 1] in self.digits else 0.15
        return weights

    def pack(self, sample: Sample, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """ids T, positions 3,T, segment T (0 prefix, -1 padding, ALONE and on without the prefix), weights T, said_of T (things as
        bits), how many things fit the name that ends here T (-1: no name does); and of the first of them, for each token with
        such a name: places 4,100, scale, reading 100, zone, word (GroundingHead)."""
        asker = WideAsker(sample, rng, wide=sample.wide or bool(rng.random() < 0.6))
        windows = [_Window() for _ in range(self.capacity // self.window)]
        size_px, segment, misses = sample.labels.shape[::-1], 0, 0
        wanted = [asker.gauge, asker.dial_face, asker.gauge] if asker.dial is not None else []
        wanted += [asker.written] if sample.signs else []
        wanted += [asker.level, asker.located_on] if any(sample.levels) else []
        for _ in range(80):
            asker.language = CHINESE if rng.random() < self.chinese_share else ENGLISH
            question = wanted.pop()() if wanted else asker.ask()
            if question is None or (self.pictured_only and not question.pictured):
                continue
            tokens, weights, said_of, names = self.pair(question)
            window = next((w for w in windows if len(w.ids) + len(tokens) <= self.window), None)
            if window is None:
                misses += 1
                if misses == 6:  # nearly full: more asking would find little that fits
                    break
                continue
            segment += 1
            window.ids += tokens
            window.weights += weights
            window.said_of += said_of
            window.fits += [min(len(names[i]), MOST) if i in names else -1 for i in range(len(tokens))]
            window.first += [names[i][0] if names[i] else None for i in sorted(names)]
            window.segments += [segment + (0 if question.pictured else ALONE)] * len(tokens)
            window.positions += range(start := self.next_position if question.pictured else 0, start + len(tokens))
        first = [k for window in windows for k in window.first]
        size = len(self.prefix)
        positions = [self.positions]
        positions += [np.tile(padded(w.positions, self.window, 0), (3, 1)) for w in windows]
        places = np.zeros((len(first), 4, 100), np.float32)
        scale, reading = np.full(len(first), -1), np.zeros((len(first), 100), np.float32)
        zone, word = np.zeros(len(first), int), np.full(len(first), -1)
        for n, k in enumerate(first):
            if k is not None:
                places[n] = places_of(coordinates(sample.things[k].box_xyxy_px, size_px))
            if k in sample.dials:
                scale[n], reading[n] = shown_by(sample.dials[k])
                zone[n] = zone_of(sample.dials[k])
            elif k in sample.signs and sample.things[k].visibility > 0.8:
                word[n] = SIGN_TEXTS.index(sample.signs[k]["text"])
        row = lambda name, before, fill: np.concatenate(  # noqa: E731
            [before, *(padded(getattr(w, name), self.window, fill) for w in windows)]
        )
        return (
            row("ids", self.prefix, self.pad),
            np.concatenate(positions, 1),
            row("segments", [0] * size, -1),
            row("weights", [0.0] * size, 0.0).astype(np.float32),
            row("said_of", [0] * size, 0),
            row("fits", [-1] * size, -1),
            places,
            scale,
            reading,
            zone,
            word,
        )

    def pack_all(self, samples, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What `loss` needs of questions about these samples: arrays alone, made where there is no network."""
        parts = list(zip(*(self.pack(s, rng) for s in samples)))
        rows = {name: np.stack(part) for name, part in zip(ROWS, parts)}
        return rows | {name: np.concatenate(part) for name, part in zip(SHOWN, parts[len(ROWS) :])}

    def loss(
        self, net: Batched, grounding: GroundingHead, merged, deep, packed, owners, teacher=None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted cross-entropy of the answers, plus how far the pointing heads look past the things that are spoken of, in
        the prompt or the answer, plus what the names in the prompts have become. Without that second part the decoder spends most of its
        training on finding out that words refer to places.

        packed: tensors of `pack_all`. owners: B,N, the thing on each image token or -1 (targets.py). teacher: None, or another
        network that reads the same (net, merged, deep): where it is right, the whole of what it expects is learned, so that
        little of it is lost.
        """
        ids, positions, segments, weights, said_of, fits = (packed[name] for name in ROWS)
        shown = {name: packed[name] for name in SHOWN}
        mask = Windows(segments, len(self.prefix), self.window, ALONE)
        looks: list[tuple[torch.Tensor, torch.Tensor]] = []
        hidden = net.read(merged, deep, ids, positions.transpose(0, 1), mask, self.visual, looks)
        at = weights[:, 1:] > 0
        logits = F.linear(hidden[:, :-1][at], net.model.lm_head.weight).float()
        target, weight = ids[:, 1:][at], weights[:, 1:][at]
        right = logits.argmax(-1) == target
        each = F.cross_entropy(logits, target, reduction="none")
        words = (each * weight).sum() / weight.sum()
        taught, kept = 0.0, {}
        if teacher is not None:
            elder, *seen = teacher
            with torch.no_grad():
                known = elder.read(*seen, ids, positions.transpose(0, 1), mask, self.visual)[:, :-1][at]
                known = F.linear(known, elder.model.lm_head.weight).float()
            known = known.log_softmax(-1)
            sure = (known.gather(1, target[:, None])[:, 0].exp() > TEACHER_SURE) * weight.clamp(min=1.0)
            apart = F.kl_div(logits.log_softmax(-1), known, reduction="none", log_target=True).sum(-1)
            parting = (apart * sure).sum() / sure.sum().clamp(min=1.0)
            taught = TEACHER_WEIGHT * parting
            kept = dict(taught=(sure > 0).float().mean(), parting=parting.detach())
        batch, token = torch.nonzero(said_of, as_tuple=True)
        on_it = (said_of[batch, token][:, None] >> owners[batch].clamp(min=0) & 1).bool() & (owners[batch] >= 0)
        share = torch.cat([look for look, _ in looks], 1)[batch, :, token]  # M, heads, N
        on_it_share = share.masked_fill(~on_it[:, None], -1e4).logsumexp(-1)
        pointing = -on_it_share[on_it.any(-1)].mean()
        grounded, parts = grounding.loss([x[fits >= 0] for _, x in looks], fits[fits >= 0], shown)
        return words + taught + POINTING_WEIGHT * pointing + grounded, parts | dict(
            words=words.detach(),
            **kept,
            tokens_right=right.float().mean(),
            decided=right[weight >= 2].float().mean(),
            pointing=pointing.detach(),
        )
