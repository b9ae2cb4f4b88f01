"""Train the embedded Qwen3-VL: one command, CPU or GPU, resumed from its last checkpoint.

    python model/data.py render --out DATA --split train --scenes 24000
    python model/data.py render --out DATA --split val --scenes 500
    python model/train_embedded.py --data DATA --run RUN [--workers 2]

Three phases, each with its own number of steps in `Settings`:
1. vision: the tower and its mergers on dense targets (targets.py); no words yet.
2. language: the decoder learns to read the frozen tower; many question-answer pairs share one image.
3. joint: everything together, the dense targets kept as a smaller loss.
Writes RUN/last.pt (weights, optimiser, step), RUN/log.jsonl and RUN/curves.png; `--export DIR` writes the checkpoint.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import embedded
import numpy as np
import torch
import torch.distributed as dist
from alone import PackedAlone
from batches import Batches, collate, on, stream
from data import INPUT_SIZE, Mixture, Views, plain
from embedded import Compiled
from journal import draw_curves, note
from muon import Muon
from pool import Pool
from settings import Settings, chosen_settings
from targets import DenseHead, dense_loss, dense_score
from text import GroundingHead, PackedText, special_ids

HELD_OUT = dict(train="val", wide="wideval", close="closeval", later="laterval")


class Run:
    """The networks, their optimiser and the step, as one thing that is saved and resumed."""

    def __init__(self, settings: Settings, folder: Path, device: str, special: dict[str, int]):
        self.settings, self.folder, self.device = settings, folder, device
        self.model = embedded.build(special, settings.seed)
        self.net = embedded.Batched(self.model, INPUT_SIZE).to(device)
        width = self.model.config.text_config.hidden_size
        self.head, self.grounding = DenseHead(width).to(device), GroundingHead(width).to(device)
        self.step, self.images, self.seconds = 0, 0, 0.0
        self.optimisers, self.opened_for = [], ""

    def heads(self) -> dict[str, torch.nn.Module]:
        """What serves training alone."""
        return dict(head=self.head, grounding=self.grounding)

    def modules(self) -> dict[str, torch.nn.Module]:
        return dict(model=self.model) | self.heads()

    def open_phase(self, phase: str) -> None:
        """Optimisers for what this phase trains; a new phase starts with fresh moments.

        The matrices inside the network learn by Muon: from the same weights and the same images, 150 steps of it led to a
        loss that Adam had not reached after any. What is looked up (embeddings), read off (heads), or not a matrix: by Adam.
        """
        if self.opened_for == phase:
            return
        visual, text = self.model.model.visual, self.model.model.language_model
        trained = dict(
            vision=[visual, self.head], language=[text, self.grounding], joint=[visual, text, self.head, self.grounding]
        )[phase]
        for module in self.modules().values():
            module.requires_grad_(False)
        matrices, others = [], []
        for module in trained:
            share = self.settings.tower_share if phase == "joint" and module is visual else 1.0
            for p in module.requires_grad_(True).parameters():
                inside = (
                    p.ndim == 2
                    and min(p.shape) <= 512
                    and module in (visual, text)  # wider ones cost Muon too much time
                    and p is not visual.pos_embed.weight
                    and p is not text.embed_tokens.weight
                )
                decay = 0.0 if p.ndim < 2 or p is visual.pos_embed.weight else self.settings.weight_decay
                (matrices if inside else others).append(dict(params=[p], weight_decay=decay, share=share))
        self.optimisers = [
            torch.optim.AdamW(others, betas=(0.9, 0.98)),
            Muon(matrices, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        ]
        self.opened_for = phase

    def groups(self) -> list[dict]:
        return [g for optimiser in self.optimisers for g in optimiser.param_groups]

    def save(self) -> None:
        state = dict(
            step=self.step,
            images=self.images,
            seconds=self.seconds,
            settings=asdict(self.settings),
            phase=self.opened_for,
            optimisers=[o.state_dict() for o in self.optimisers],
        )
        state |= {name: module.state_dict() for name, module in self.modules().items()}
        temporary = self.folder / "last.tmp"
        torch.save(state, temporary)
        temporary.rename(self.folder / "last.pt")

    def load(self, path: Path, resume: bool = True) -> None:
        """Weights and step; with `resume` the optimisers too, so that training goes on as if it had not stopped."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, module in self.modules().items():
            module.load_state_dict(state[name])
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]
        if resume and state["phase"] == self.settings.phase(self.step)[0]:
            self.open_phase(state["phase"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"]):
                optimiser.load_state_dict(saved)

    def start_from(self, folder: Path) -> None:
        """An exported checkpoint, and its heads where they lie beside it: without them the first hundreds of steps learn heads.

        Its tokenizer and heads may be older ones: a token they lack begins near the mean of what it was spelt with, a head's
        part as the seed has it.
        """
        from safetensors.torch import load_file
        from text import tokenizer
        from tokenizers import Tokenizer

        weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
        tables = [
            weights.pop(k).to(self.device)
            for k in list(weights)
            if k.endswith(("embed_tokens.weight", "lm_head.weight"))
        ]
        lacking = self.model.load_state_dict(weights, strict=False).missing_keys
        for name in lacking:  # a layer that it lacks begins by adding nothing
            if name.rpartition(".")[0].endswith(("attn.proj", "linear_fc2", "o_proj", "down_proj")):
                self.model.get_parameter(name).data.zero_()
        embedding = self.model.get_input_embeddings().weight.data
        embedding *= tables[0].std() / embedding.std()  # new tokens begin no louder and no fainter than the others
        reader = Tokenizer.from_file(str(folder / "tokenizer.json"))
        theirs = reader.get_vocab()
        ours_at, theirs_at = torch.tensor(
            [(i, theirs[token]) for token, i in tokenizer().get_vocab().items() if token in theirs]
        ).T
        embedding[ours_at] = tables[0][theirs_at]
        for at, token in tokenizer().get_added_tokens_decoder().items():
            if token.content not in theirs:
                pieces = reader.encode(token.content, add_special_tokens=False).ids
                embedding[at] = 0.5 * embedding[at] + tables[0][pieces].mean(0)
        self.model.tie_weights()
        if (path := heads_of(folder)).exists():
            saved = load_file(path)
            for name, module in self.heads().items():
                state = module.state_dict()
                for k in state.keys() & {key.removeprefix(f"{name}.") for key in saved}:
                    known = saved[f"{name}.{k}"].float()  # what a head's part lacks is at its end
                    state[k][: len(known)] = known
                module.load_state_dict(state)


def heads_of(folder: Path) -> Path:
    """Where the training heads of a checkpoint lie: beside it, because nobody who runs it needs them."""
    folder = folder.resolve()
    return folder.with_name(f"{folder.name}_heads.safetensors")


def share_gradients(parameters, workers: int) -> None:
    """Mean of the workers' gradients, as one message."""
    if workers == 1:
        return
    grads = [p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= workers
    at = 0
    for g in grads:
        g.copy_(flat[at : at + g.numel()].view_as(g))
        at += g.numel()


def train(rank: int, workers: int, args: argparse.Namespace, settings: Settings) -> None:
    if workers > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ["MASTER_PORT"] = str(args.port)
        dist.init_process_group("gloo", rank=rank, world_size=workers)
    torch.set_num_threads(max(1, args.threads // workers))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(settings, args.run, device, special_ids())
    if (args.run / "last.pt").exists():
        run.load(args.run / "last.pt")
    elif args.start:
        run.start_from(args.start)
    shares = settings.splits()
    views = Mixture(args.data, shares)
    held_out = []
    for split in shares if rank == 0 else ():
        unseen = Views(args.data, HELD_OUT[split], limit=40)
        held_out += [plain(unseen[i]) for i in range(min(len(unseen), 40))]
    net = Compiled(run.net) if args.compile else run.net
    packing = settings.pack_tokens, net.visual_tokens, net.grid, settings.chinese_share
    packer = PackedText(*packing, pictured_only=settings.alone_rows > 0)
    unheard = PackedAlone(packer, 40, held_out=True)
    rng = np.random.default_rng([settings.seed, run.step, rank])
    pool, begun = Pool(settings.pool_views), time.time()
    sums: dict[str, tuple[float, int]] = {}  # of each part: total, and in how many steps it was
    elder = None
    if args.teacher:
        elder = Run(settings, args.run, device, special_ids())
        elder.start_from(args.teacher)
        elder = elder.net.requires_grad_(False)
        if device == "cuda":
            for p in elder.parameters():  # autocast keeps no copies of what is not trained
                p.data = p.data.bfloat16()
        elder = Compiled(elder) if args.compile else elder
    clock, logged, opened, batches = time.time(), run.step, "", None
    while (phase := settings.phase(run.step))[0] != "done":
        name = phase[0]
        spent = (time.time() - begun) / 60 / args.minutes if args.minutes else 0.0
        if workers > 1 and args.minutes:  # all end at the same step, by the clock of the first
            shared = torch.tensor(spent, dtype=torch.float64)
            dist.broadcast(shared, 0)
            spent = float(shared)
        if spent >= 1:
            break
        run.open_phase(name)
        if opened != name:
            source = Batches(views, packer, settings, name, workers, (settings.seed, run.step, rank))
            batches, opened = stream(source, 0 if name == "language" else args.loaders), name
        rate = settings.rate(run.step, spent)
        for group in run.groups():
            group["lr"] = rate * group["share"]
        loss, parts = torch.zeros((), device=device), {}
        if name == "language":
            if len(pool) < settings.pool_views // 8 or run.step % settings.pool_reuse == 0:
                moments = 4 if settings.frames_every else 0
                samples = source.samples(rng, source.share, moments)
                batch = on(device, collate(samples, net.grid))
                with torch.no_grad(), torch.autocast(device, torch.bfloat16):
                    pool.add(*run.net.see(batch["images"]), samples, batch["truth"]["owner"], moments)
            of = int(rng.integers(2, 5)) if settings.frames_every and run.step % settings.frames_every == 0 else 0
            *seen, samples, owner = pool.draw(source.share, rng, of)
            batch = on(device, dict(text=packer.pack_all(samples, rng), alone=source.alone.pack(rng), frames_of=of))
            if of:
                batch["frames"] = on(device, source.frames[of].pack_all(samples, rng))
        else:
            batch = on(device, next(batches))
        with torch.autocast(device, torch.bfloat16):
            if name != "language":
                merged, deep = net.see(batch["images"])
                dense, parts = dense_loss(run.head(merged), batch["truth"])
                loss = loss + dense * (1.0 if name == "vision" else settings.dense_weight_joint)
                seen = merged[: source.share], [d[: source.share] for d in deep]
                owner = batch["truth"]["owner"][: source.share]
            if name != "vision":
                teacher = None
                if elder is not None:  # a frozen tower is the teacher's own
                    with torch.no_grad():
                        theirs = seen if name == "language" else elder.see(batch["images"][: source.share])
                    teacher = elder, *theirs
                words, more = packer.loss(net, run.grounding, *seen, batch["text"], owner, teacher)
                loss, parts = loss + words, parts | more
                if batch["alone"]:
                    words, more = source.alone.loss(net, batch["alone"])
                    loss, parts = loss + settings.alone_weight * words, parts | more
                if batch["frames_of"]:
                    words, more = source.frames[batch["frames_of"]].loss(run.net, *seen, batch["frames"])
                    loss, parts = loss + words, parts | more
        for optimiser in run.optimisers:
            optimiser.zero_grad()
        loss.backward()
        trained = [p for g in run.groups() for p in g["params"]]
        for p in trained:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        share_gradients(trained, workers)
        norm = torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        if math.isfinite(float(norm)):
            for optimiser in run.optimisers:
                optimiser.step()
        else:
            parts = parts | dict(skipped=torch.ones(()))
        run.step += 1
        run.images += settings.batch
        for k, v in (
            parts | dict(loss=loss.detach())
        ).items():  # added up where they are: to ask for each is to wait for it
            total, times = sums.get(k, (0.0, 0))
            sums[k] = total + v.nan_to_num(), times + ~v.isnan()
        if rank:
            continue
        if run.step % args.log_every == 0:
            elapsed, count = time.time() - clock, run.step - logged
            run.seconds += elapsed
            row = dict(
                step=run.step,
                phase=name,
                rate=rate,
                images=run.images,
                seconds=round(run.seconds),
                images_per_s=round(count * settings.batch / elapsed, 1),
                **{k: round(float(total) / int(times), 4) for k, (total, times) in sums.items() if times},
            )
            note(args.run, row)
            sums, clock, logged = {}, time.time(), run.step
        if run.step % args.save_every == 0 or settings.phase(run.step)[0] != name:
            run.save()
            draw_curves(args.run)
            note(args.run, dict(step=run.step, phase="val", **validate(run, held_out, packer, unheard)))
    if rank == 0:
        run.save()
        note(args.run, dict(step=run.step, phase="val", **validate(run, held_out, packer, unheard)))


def export(run: Run, folder: Path) -> None:
    """The checkpoint as any Qwen3-VL directory: fp16 safetensors, configuration, tokenizer, processor; the heads beside it."""
    from safetensors.torch import save_file
    from text import write_processor

    folder.mkdir(parents=True, exist_ok=True)
    run.model.half().save_pretrained(folder, safe_serialization=True)
    write_processor(folder)
    heads = {
        f"{name}.{k}": v.half().contiguous()
        for name, module in run.heads().items()
        for k, v in module.state_dict().items()
    }
    save_file(heads, heads_of(folder))
    for path in (folder / "model.safetensors", heads_of(folder)):
        path.chmod(0o644)  # written private to its owner, of no use to others
    print(
        f"{folder}: step {run.step}, {run.images} images, {(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    )


@torch.no_grad()
def validate(run: Run, samples, packer, unheard) -> dict[str, float]:
    """Dense scores on held-out views, and the share of answer tokens that are right when the ones before are given;
    of questions without a picture, in forms held out, the share of whole answers."""
    said, truths, words = [], [], {}
    for i in range(0, len(samples), 20):
        some = samples[i : i + 20]
        batch = on(run.device, collate(some, run.net.grid))
        with torch.autocast(run.device, torch.bfloat16):
            merged, deep = run.net.see(batch["images"])
            said.append(run.head(merged))
            if run.opened_for != "vision":
                packed = on(run.device, packer.pack_all(some, np.random.default_rng(i)))
                for k, v in packer.loss(run.net, run.grounding, merged, deep, packed, batch["truth"]["owner"])[
                    1
                ].items():
                    words[k] = words.get(k, 0.0) + float(v) * len(some) / len(samples)
        truths.append(batch["truth"])
    if run.opened_for != "vision":
        with torch.autocast(run.device, torch.bfloat16):
            words |= unheard.loss(run.net, on(run.device, unheard.pack(np.random.default_rng(0))))[1]
    scores = dense_score(
        {k: torch.cat([s[k] for s in said]) for k in said[0]}, {k: torch.cat([t[k] for t in truths]) for k in truths[0]}
    )
    return {k: round(float(v), 4) for k, v in (scores | words).items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of shards written by data.py")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints and logs; resumed if it has one")
    parser.add_argument(
        "--set", default="{}", help='settings to change, as JSON: {"vision_steps": 4000}; a run keeps its own'
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that share each batch (CPU)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads over all workers")
    parser.add_argument(
        "--loaders",
        type=int,
        default=0,
        help="processes that draw and ask while this one computes: on a GPU, as many as there are cores; 0: none",
    )
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--compile", action="store_true", help="worth its two minutes on a CPU with AMX")
    parser.add_argument(
        "--minutes", type=float, default=0, help="end after this time, the rate falling by the clock; 0: by steps alone"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        help="a checkpoint whose right answers are kept; in the language phase, one with the same tower",
    )
    parser.add_argument(
        "--start", type=Path, help="a checkpoint whose weights a new run begins with, e.g. model/embedded"
    )
    parser.add_argument(
        "--export", type=Path, help="write the run's last state as a checkpoint into this folder, and end"
    )
    args = parser.parse_args(argv)
    if args.export:
        if not (args.run / "last.pt").exists():
            parser.error(f"--run {args.run} holds no last.pt to export; train first")
        run = Run(Settings(), args.run, "cpu", special_ids())
        run.load(args.run / "last.pt", resume=False)
        export(run, args.export)
        return 0
    if not args.data:
        parser.error("--data is needed to train: the folder that model/data.py wrote")
    if args.compile and torch.cuda.is_available():
        parser.error(
            "--compile is for CPUs: on a GPU (an H100, torch 2.11) the compiled reading of packed questions computed something else, a "
            "loss of words of 4.4 instead of 0.3 from the first step on; leave --compile out"
        )
    if args.start and (args.run / "last.pt").exists():
        parser.error(
            f"--start begins a new run, but {args.run} holds one; give another --run, or leave --start out to go on"
        )
    if args.start and not all((args.start / name).exists() for name in ("model.safetensors", "tokenizer.json")):
        parser.error(f"--start {args.start} is no checkpoint: it needs model.safetensors and tokenizer.json")
    if args.teacher and not (args.teacher / "model.safetensors").exists():
        parser.error(f"--teacher {args.teacher} is no checkpoint: it needs model.safetensors and tokenizer.json")
    if min(args.workers, args.threads, args.log_every, args.save_every) < 1:
        parser.error("--workers, --threads, --log-every and --save-every must be 1 or more")
    try:
        settings = chosen_settings(args.run, args.set)
        views = settings.batch, settings.mosaics, settings.seen_only, settings.alone_rows
        if any(count % args.workers for count in views):
            raise ValueError(
                f"--workers {args.workers} must divide the batch of {settings.batch}, the {settings.mosaics} mosaics, the "
                f"{settings.seen_only} views seen only and the {settings.alone_rows} rows"
            )
        for split in settings.splits():
            Views(args.data, split, limit=1)
            Views(args.data, HELD_OUT[split], limit=1)
        args.run.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if args.workers == 1:
        train(0, 1, args, settings)
    else:
        torch.multiprocessing.spawn(train, (args.workers, args, settings), nprocs=args.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
