"""The mending of noisy masks, from pairs to an audit folder (see `auditing.folder`), which has besides

    DIR/estimate.json   how good the masks are expected to be (see `estimate`)
    DIR/pairs.csv       a row per pair: how good each way of treating its mask would have been, by a mender that has not seen it
    DIR/pairs/<id>.png  the mask that such a mender makes of the given one (.nii.gz of a volume)
    DIR/menders/<k>/    the run folders of the menders

All is made in DIR/.mending/next, where a stopped mending continues, and moved to its place at the end; so the files of an earlier mending
are whole until then. DIR/.mending/status.json says how far the work is.
"""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import Audit, AuditRecord, check_names, review_command, train_command
from pixeltrust.auditing.regions import list_regions, measure_agreement, measure_case
from pixeltrust.auditing.writing import AuditWriter, Judged, describe_files, find_foreground_value, join_judged
from pixeltrust.config import Config, config_from, patch_of, refuse_other_settings, to_values
from pixeltrust.data.cases import FEWEST_PAIRS, CaseList, Cases, read_cases
from pixeltrust.data.fitting import fitted_shapes, read_spacing, settle, threads_for
from pixeltrust.data.images import map_name, write_labels
from pixeltrust.data.layouts import Layout
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults, read_mask
from pixeltrust.mending.estimate import (
    Choice,
    Estimate,
    Kind,
    Verdict,
    best_way,
    choose,
    is_surely_better,
    make_estimate,
    mean_interval,
    read_estimate,
    short,
)
from pixeltrust.mending.menders import Menders, choose_crop, look, noisy_mask, share_turns
from pixeltrust.mending.pairs import Pairs, look_at_pairs
from pixeltrust.mending.seen import SeenMasks
from pixeltrust.mending.settings import FEWEST_FOR_STRONGER, LEAST_BROUGHT, as_mender_config, chosen_settings, method_for_mended, strengthen
from pixeltrust.mending.ways import ALONE, Way, propose
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.files import exclusive_lock, make_folder, naming_write_errors, require_free, sync_files, write_file
from pixeltrust.plumbing.labels import most_probable, probability_of
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.progress import map_in_threads, progress_bar
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.network import Network, choose_device

WORK = ".mending"
OF = "of.json"  # what it is the mending of
LOOKED = "looked"  # in which the masks are as menders see them
SMALLEST = 9  # pixels of a region that gets a row
FOLDERS: Mapping[Kind, str] = {"usual": "menders", "stronger": "stronger-menders", "alone": "menders-of-images-alone"}
"""Of menders in the making."""
_WORDS: Mapping[Kind, str] = {"usual": "the usual menders", "stronger": "stronger ones", "alone": "ones that see the images alone"}
_STAGES: Mapping[Kind, tuple[str, float, float]] = {
    "usual": ("mender", 0.0, 0.7), "stronger": ("stronger mender", 0.7, 0.8), "alone": ("mender of images alone", 0.8, 0.85),
}  # fmt: skip
"""How a mender of a kind is called while it is trained, and from which share of the work to which."""
_TRAINED, _LOOKED = 0.85, 0.9  # of the work, once all menders are trained, and once they have looked
_STATUS_SECONDS = 0.5


@dataclass(frozen=True, repr=False)
class Mended(Summary):
    """The result of a mending; `str` gives the summary."""

    out: Path
    estimate: Estimate
    cases: pd.DataFrame
    """The rows of cases.csv."""
    to_train: str
    """The command that trains on the mended masks."""
    notes: tuple[str, ...]

    def in_rows(self) -> pd.DataFrame:
        return self.cases[["rank", "id", "agreement", "doubtful_share", "changed_pixels", "regions"]].head(10)

    def __str__(self) -> str:
        estimate, below = self.estimate, self.estimate.below
        ways = ", ".join(f"{way} {short(quality.dice)}" for way, quality in estimate.ways.items())
        low = int(below["cases"])
        return "\n".join([
            *self.notes,
            f"Dice on the pairs     {ways}",
            estimate.sentence(),
            *([estimate.doubt()] if estimate.beyond else []),
            f"{estimate.changed:,} of {count(estimate.cases, 'mask')} changed"
            + (f"; about {count(low, 'mask')} expected below {short(below['dice'])}: the first of the list" if low else ""),
            f"the page is {self.out / 'report.html'}; `{review_command(self.out)}` goes through the masks, worst first",
            f"to train on the mended masks: {self.to_train}",
        ])  # fmt: skip


def mend(
    data: Path,
    *,
    out: Path,
    config: Config | Mapping[str, Any] | None = None,
    resume: bool = False,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Mended:
    """Mend the noisy masks of a data folder by what its pairs show of their errors.

    Menders, networks that see the image and the given mask, are trained on the pairs. By cross-fitting they say how good masks are as
    given and mended, and a mask is changed only where that is expected to help. Under `torchrun` every process makes this call.

    Example:
        print(pixeltrust.mend(Path("lesions"), out=Path("mended")))

    Args:
        data: a data folder or table of cases with at least 5 pairs: cases with a noisy and a clean mask.
        out: the folder to make.
        config: the settings of the menders, as a Config with `method = "mender"`, or a mapping of some of them, over
            `settings.DEFAULTS`; with `resume` over those of the mending, which may be no others.
        resume: continue a mending that was stopped.
        show_progress: progress bars on standard error.
        layout: how the data folder differs from the usual, as for `read_cases`.

    Raises:
        DataError: every fault of the data at once; or there are too few pairs.
        RunError: `out` cannot be used, or was started with something else.
        ConfigError: settings that cannot be used.
        KeyboardInterrupt: Ctrl-C; what is trained is kept.
    """
    out = Path(out)
    record = _record_before(out) if resume else {}
    before = record.get("config", {})
    settled = as_mender_config(config, before)
    chosen = record.get("chosen", {}) | chosen_settings(config, settled)
    if before:
        refuse_other_settings(out, replace(config_from(before), stronger_below=settled.stronger_below), settled)
    choose_device(settled)[1].on_rank_0(lambda: _check_out(out, resume))
    cases = read_cases(Path(data), may_be_volumes=True, show_progress=show_progress, **layout)
    config = as_mender_config(config, before, clean=len(cases.of("clean")))
    return mend_cases(cases, cases.of("noisy"), out=out, config=config, chosen=chosen, show_progress=show_progress, layout=layout)


def _record_before(out: Path) -> dict[str, Any]:
    """Return the record of a mending that was stopped in the folder, with its settings (`config`, `chosen`); empty where there is none."""
    try:
        record = json.loads((out / WORK / "next" / OF).read_text(encoding="utf-8"))
        return {"config": dict(record["config"]), "chosen": dict(record.get("chosen", {}))}  # which earlier versions did not keep
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _check_out(out: Path, resume: bool) -> None:
    """Check that the folder is free, or holds a stopped mending to be resumed, or raise RunError."""
    if resume and (out / "audit.json").is_file():
        raise RunError(f"{out}: this mending has finished already; choose another --out, or remove it")
    if not (resume and (out / WORK).is_dir()):
        require_free(out)


def mend_cases(
    cases: Cases,
    listed: CaseList,
    *,
    out: Path,
    config: Config,
    chosen: Mapping[str, Any] | None = None,
    show_progress: bool = True,
    layout: Layout | None = None,
) -> Mended:
    """Mend masks as `mend` does, into a folder that may have the results of an earlier mending: they are replaced at the end.

    Args:
        cases: the data; menders learn from its pairs.
        listed: the cases that the folder lists: the noisy ones, and pairs of a review.
        config: the settings of the menders, before they are settled by the data.
        chosen: those that were given, which a mending anew begins with.
    """
    started, config = time.perf_counter(), settle(config, cases)
    if len(cases.pairs) < FEWEST_PAIRS:
        raise DataError(
            f"{cases.data}: {count(len(cases.pairs), 'pair')} (cases with a noisy and a clean mask), and from fewer than {FEWEST_PAIRS} it "
            f"cannot be known what helps; correct {FEWEST_PAIRS - len(cases.pairs)} more, by `pixeltrust review {cases.data}`"
        )
    check_names(listed, cases.data)
    _, ranks, moved = choose_device(config)
    config = choose_crop(config, cases, show_progress=show_progress and ranks.rank == 0)
    work = _Work(cases, listed, out, config, chosen or {}, ranks, show_progress=show_progress and ranks.rank == 0)
    with naming_write_errors(out), ExitStack() as held:
        ranks.on_rank_0(lambda: work.begin(held))
        estimate, table = work.run(layout or {}, started)
    to_train = train_command(out, config.classes, config.ignore_label, method=method_for_mended(patch := patch_of(config)), patch=patch)
    return Mended(out, estimate, table, to_train, (*moved, *cases.notes, *work.notes))


@dataclass
class _Work:
    """A mending in progress."""

    cases: Cases
    listed: CaseList
    out: Path
    config: Config
    chosen: Mapping[str, Any]
    """The settings that were given."""
    ranks: Ranks
    show_progress: bool
    notes: list[str] = field(default_factory=list, init=False)
    """What the person should know of how it went."""
    _reported: float = field(default=0.0, init=False)

    @cached_property
    def next(self) -> Path:
        """The folder in which all is made."""
        return self.out / WORK / "next"

    @cached_property
    def writer(self) -> AuditWriter:
        return AuditWriter(self.next, classes=self.config.classes, ignore_label=self.config.ignore_label, place=self.out)

    def begin(self, held: ExitStack) -> None:
        """Make the folders, locked while `held` lasts; drop what was made from other data or settings."""
        make_folder(self.out / WORK)
        held.enter_context(exclusive_lock(self.out / WORK / "lock", f"{self.out}: another process mends here; wait for its end"))
        masks = [file for case in (*self.cases.of("clean"), *self.listed) for file in (case.mask, noisy_mask(case))]
        files = [[str(file), file.stat().st_mtime_ns] for file in masks]
        record = {"data": str(self.cases.data.resolve()), "files": files, "config": to_values(self.config), "chosen": dict(self.chosen)}
        file = self.next / OF
        if not (file.is_file() and _without_further(json.loads(file.read_text(encoding="utf-8"))) == _without_further(record)):
            shutil.rmtree(self.next, ignore_errors=True)
            make_folder(self.next)
        write_file(file, json.dumps(record))
        self.writer.make_folders()
        _remove(self.out / WORK / "status.json")

    @cached_property
    def foreground_value(self) -> int:
        """What foreground is in the files of two labels.

        Raises:
            DataError: files that cannot be read, or have values whose meaning is not clear.
        """
        config, complaint = self.config, f"{self.cases.data}: masks that cannot be used"

        def decode(file: Path) -> MaskMeaning:
            return decode_labels(file, classes=config.classes, ignore_label=config.ignore_label)[1]

        files = [noisy_mask(case) for case in self.ranks.share(self.listed)]
        kinds = self.ranks.gather_results(
            lambda: map_in_threads(decode, files, text="reading masks", complaint=complaint, shown=self.show_progress)
        )
        if faults := mixture_faults(kinds):
            raise DataError(complaint, faults)
        return find_foreground_value(kinds, config.ignore_label)

    def run(self, layout: Layout, started: float) -> tuple[Estimate, pd.DataFrame]:
        """Do the work; return the estimate, and the rows of cases.csv."""
        _ = self.foreground_value  # so that faults of the masks are known before the training
        learned = self.learn()
        pairs, way = learned.pairs, learned.way
        seen = self.look_at_all(learned)
        earlier = read_estimate(self.out)
        estimate, verdict = make_estimate(
            pairs.measured,
            learned.choice,
            learned.menders.groups,
            soft=seen.numbers[:, :2],
            agreement=seen.numbers[:, 2],
            noisy=self.listed.has_role("noisy"),
            drops_apart=pairs.drops(way),
            menders=learned.kind,
            earlier=earlier.history if earlier else (),
        )
        tables = self.mend_all(pairs, way, seen, verdict)
        self.ranks.on_rank_0(lambda: self.write(tables, learned, estimate, layout, started))
        return estimate, tables[0]

    # --- the menders ------------------------------------------------------------------------------------------------

    def learn(self) -> "_Learned":
        """Train menders, and measure them on the pairs. Where these stay poor, train stronger ones too; where the given masks bring those
        little, also some that see the images alone. Take the best."""
        tried = [self._learn("usual")]
        if self.ranks.on_rank_0(lambda: self._are_poor(tried[0])):
            tried.append(self._learn("stronger"))
            if self.ranks.on_rank_0(lambda: tried[1].given_brings < LEAST_BROUGHT):
                tried.append(self._learn("alone"))
        best = tried[0]
        for learned in tried[1:]:
            if self.ranks.on_rank_0(lambda: is_surely_better(learned.dice, best.dice, best.menders.groups)):  # noqa: B023
                best = learned
        if len(tried) > 1:
            told = ", ".join(f"{learned.mean_dice:.3f} by {_WORDS[learned.kind]}" for learned in tried)
            self.notes.append(f"Dice of the pairs once mended: {told}; {_WORDS[best.kind]} are used")
        return best

    def _are_poor(self, usual: "_Learned") -> bool:
        """Return whether the pairs stay so poor that stronger menders are worth their time."""
        return len(self.cases.pairs) >= FEWEST_FOR_STRONGER and usual.mean_dice < self.config.stronger_below

    def _learn(self, kind: Kind) -> "_Learned":
        config = replace(self.config, stronger_below=0.0)  # a training does not know whether others follow
        menders = Menders(self.cases, self.next / FOLDERS[kind], config if kind == "usual" else strengthen(config, alone=kind == "alone"))
        self.train(menders, kind)
        networks = menders.load()
        pairs = look_at_pairs(self.cases, menders, networks, self._looked_by(menders), self.ranks, show_progress=self.show_progress)
        return _Learned.of(kind, menders, networks, pairs)

    def train(self, menders: Menders, kind: Kind) -> None:
        """Train the menders, under one progress bar."""
        which, first, last = _STAGES[kind]
        total = menders.count * menders.updates
        with progress_bar(self.show_progress) as bar:
            task = bar.add_task(f"training {which}s", total=total, note="")

            def tick(number: int, update: int) -> None:
                done = (number - 1) * menders.updates + update
                bar.update(task, completed=done, note=f"mender {number} of {menders.count}")
                self.report_status(f"training {which} {number} of {menders.count}", first + (last - first) * done / total)

            menders.train(tick, self.ranks)

    def report_status(self, stage: str, share: float) -> None:
        """Write how far the work is, now and then."""
        if self.ranks.rank == 0 and time.monotonic() - self._reported > _STATUS_SECONDS:
            write_file(self.out / WORK / "status.json", json.dumps({"stage": stage, "share": round(share, 4)}))
            self._reported = time.monotonic()

    # --- what they see ----------------------------------------------------------------------------------------------

    def _looked_by(self, menders: Menders) -> Path:
        return self.next / LOOKED / menders.folder.name

    def look_at_all(self, learned: "_Learned") -> SeenMasks:
        """Let all menders look at the listed masks, as the way to treat them needs it; what was seen before a stop is kept."""
        networks, pairs, way = learned.networks, learned.pairs, learned.way
        seen = SeenMasks(self._looked_by(learned.menders), fitted_shapes(self.listed, self.config), self.config, way, self.ranks)
        todo = [place for place in self.ranks.share(range(len(self.listed))) if not seen.done[place]]
        looked = look(
            networks,
            self.listed[np.array(todo, int)],
            turns=share_turns(networks[0].turns, len(networks)),
            known=way not in ALONE,
            text="looking at masks",
            show_progress=self.show_progress,
        )
        for case in looked:
            seen.keep(todo[case.place], case.probabilities, *pairs.judge(case, way))
            self.report_status("looking at masks", _TRAINED + (_LOOKED - _TRAINED) * case.place / len(todo))
        self.ranks.barrier()
        return seen

    # --- every mask is judged ---------------------------------------------------------------------------------------

    def mend_all(self, pairs: Pairs, way: Way, seen: SeenMasks, verdict: Verdict) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Write the pictures of every case; return the tables of cases and of regions."""
        self.report_status("mending", _LOOKED)
        places = self.ranks.share(range(len(self.listed)))

        def write(place: int) -> Judged:
            return self._write_case(place, way, seen.planes(place), pairs, verdict)

        complaint = f"{self.cases.data}: masks that cannot be mended"
        more: dict[str, Any] = {
            "complaint": complaint,
            "shown": self.show_progress,
            "threads": threads_for(self.listed, self.config.classes),
        }
        return join_judged(self.ranks.gather_results(lambda: self.writer.syncing(map_in_threads(write, places, text="mending", **more))))

    def _write_case(self, place: int, way: Way, planes: np.ndarray, pairs: Pairs, verdict: Verdict) -> Judged:
        case = self.listed[place]
        given = read_mask(noisy_mask(case), self.config)
        probabilities = pairs.enlarge(planes, case, given, way, self.config)
        if case.role == "clean":  # a pair: corrected by a person, in a review
            mended, expected, evidence = read_mask(case.mask, self.config), 1.0, "corrected"
        elif verdict.changed[place]:
            mended, expected, evidence = propose(way, given, probabilities, pairs.tilt), verdict.expected[place], way
        else:
            mended, expected, evidence = given, verdict.expected[place], "given"
        confidence = (probability_of(given, probabilities) * 255).round().astype(np.uint8)
        seen = most_probable(probabilities)
        case = replace(case, mask=noisy_mask(case))
        self.writer.write_pictures(case, given, confidence, mended, self.foreground_value)
        regions = list_regions(given, mended, seen, confidence, SMALLEST, read_spacing(case, self.config))
        row = describe_files(case) | {"agreement": measure_agreement(given, probabilities)} | measure_case(given, mended, seen, confidence)
        return row | {
            "regions": len(regions), "evidence": evidence, "expected_given": verdict.expected_given[place], "expected": expected,
        }, regions  # fmt: skip

    # --- what is written --------------------------------------------------------------------------------------------

    def write(
        self, tables: tuple[pd.DataFrame, pd.DataFrame], learned: "_Learned", estimate: Estimate, layout: Layout, started: float
    ) -> None:
        """Write the tables, the pairs, the page and audit.json, and move all to its place."""
        from pixeltrust.mending.page import mending_page  # imported here: it loads matplotlib

        record = AuditRecord(
            data=str(self.writer.write_tables(*tables, self.cases, layout)),
            run=str((self.out / "menders").resolve()),
            weights="last",
            classes=self.config.classes,
            ignore_label=self.config.ignore_label,
            channels=self.config.channels,
            axes=len(self.config.size),
            patch=patch_of(self.config),
            tilt=tuple(round(float(value), 4) for value in learned.pairs.tilt),
            menders=dict(self.chosen),
            seconds=round(time.perf_counter() - started, 1),
        )
        write_csv(self._write_pairs(learned), self.next / "pairs.csv")
        estimate.write(self.next)
        _remove(self.next / OF)  # from here on all is done, and nothing in this folder can be continued
        _remove(self.next / LOOKED)
        self._keep(learned)
        self._install()
        write_file(self.out / "report.html", mending_page(Audit.of(self.out, record), tables[0], estimate))
        write_file(self.out / "audit.json", record.text())

    def _keep(self, learned: "_Learned") -> None:
        """Keep the menders that were taken alone, without what only a training that goes on needs."""
        learned.menders.slim()
        for kind, name in FOLDERS.items():
            if kind != learned.kind:
                _remove(self.next / name)
        learned.menders.folder.rename(self.next / FOLDERS["usual"])

    def _write_pairs(self, learned: "_Learned") -> pd.DataFrame:
        """Write the masks that a mender makes of the pairs it has not seen; return the rows of pairs.csv."""
        make_folder(self.next / "pairs")
        pairs, way = learned.pairs, learned.way
        rows = []
        for place, case in enumerate(self.cases.pairs):
            given = read_mask(noisy_mask(case), self.config)
            planes = pairs.seen[way not in ALONE].planes(place)
            labels = propose(way, given, pairs.enlarge(planes, case, given, way, self.config), pairs.tilt)
            values = labels if self.config.classes > 1 else (labels == 1) * np.uint8(255)
            write_labels(self.next / "pairs" / map_name(case.id, values.ndim), values, like=noisy_mask(case), synced=False)
            dice = {f"dice_{name}": round(float(values[place, 0]), 5) for name, values in pairs.measured.items()}
            files = {"image": str(case.image.absolute()), "given": str(noisy_mask(case).absolute()), "clean": str(case.mask.absolute())}
            rows.append({"id": case.id, **files, "mender": int(learned.menders.folds[place]) + 1, **dice})
        sync_files(self.next / "pairs")
        return pd.DataFrame(rows)

    def _install(self) -> None:
        """Move all that was made to its place."""
        for entry in self.next.iterdir():
            place = self.out / entry.name
            if place.is_dir():
                old = self.out / WORK / f"old-{entry.name}"
                _remove(old)
                place.rename(old)
                entry.rename(place)
                _remove(old)
            else:
                entry.replace(place)
        for name in ("next", "status.json"):
            _remove(self.out / WORK / name)


@dataclass(frozen=True, eq=False)
class _Learned:
    """Trained menders, and what was measured of them on the pairs."""

    kind: Kind
    menders: Menders
    networks: list[Network]
    pairs: Pairs
    choice: Choice
    way: Way
    """The chosen way; where all masks are left as they are, that whose view of them is shown."""

    @classmethod
    def of(cls, kind: Kind, menders: Menders, networks: list[Network], pairs: Pairs) -> "_Learned":
        """Choose the way."""
        best = best_way(pairs.measured, menders.groups)
        way: Way = best if best != "given" else "mender" if "mender" in pairs.measured else "network"
        pairs = pairs.beside(way)
        return cls(kind, menders, networks, pairs, choose(pairs.measured, menders.folds, menders.groups), way)

    @property
    def dice(self) -> np.ndarray:
        """The Dice of the pairs by the chosen way (N,)."""
        return self.pairs.measured[self.choice.way][:, 0]

    @property
    def mean_dice(self) -> float:
        """The mean of `dice`; NaN where it is not defined of any."""
        return mean_interval(self.dice).dice

    @property
    def given_brings(self) -> float:
        """How much higher the mean Dice of the pairs is by menders that see the given masks than by the same ones without."""
        if "mender" not in self.pairs.measured:
            return 0.0
        return mean_interval(self.pairs.measured["mender"][:, 0]).dice - mean_interval(self.pairs.measured["network"][:, 0]).dice


def _without_further(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a mending without what a mending that goes on may change: whether further menders are trained."""
    config = {name: value for name, value in record["config"].items() if name != "stronger_below"}
    return record | {"config": config, "chosen": None}


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
