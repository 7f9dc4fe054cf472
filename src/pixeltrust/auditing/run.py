"""The audit of noisy masks: every mask is compared with what a source of evidence says of it.

The first pass looks at every case, which for a run is the slow part; `resume` finds what it has kept (see `seen`). The second pass judges,
mends and measures each case in a thread; it needs all cases of the first, for the tilt, and the pairs, for what they teach (see
`calibration`). Several processes (see `processes`) share the cases in both; rank 0 writes the tables.
"""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar, Unpack

import numpy as np
import pandas as pd

from pixeltrust.auditing.calibration import Calibration, PairPixels, Taught, calibrate, sample_pair
from pixeltrust.auditing.file_source import FileSource
from pixeltrust.auditing.folder import (
    DOUBTFUL_BELOW,
    Audit,
    AuditRecord,
    check_names,
    review_command,
    train_command,
)
from pixeltrust.auditing.gain import Gain, measure_gain
from pixeltrust.auditing.regions import list_regions, measure_agreement, measure_case
from pixeltrust.auditing.run_source import RunSource
from pixeltrust.auditing.scores import compute_confidence, estimate_tilt
from pixeltrust.auditing.seen import SeenFolder
from pixeltrust.auditing.source import Evidence, Source
from pixeltrust.auditing.writing import AuditWriter, Judged, describe_files, find_foreground_value, join_judged
from pixeltrust.data.cases import FEWEST_PAIRS, Case, CaseList, Cases, read_cases
from pixeltrust.data.fitting import threads_for
from pixeltrust.data.folds import name_groups
from pixeltrust.data.images import read_header
from pixeltrust.data.layouts import Layout
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.plumbing.files import exclusive_lock, make_folder, naming_write_errors, require_free, write_file
from pixeltrust.plumbing.labels import IGNORE, is_foreground, most_probable
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count, one_line
from pixeltrust.training.run_folder import Run

Result = TypeVar("Result")


@dataclass(frozen=True, repr=False)
class Audited(Summary):
    """The results of an audit; `str` gives the summary."""

    out: Path
    cases: pd.DataFrame
    """The rows of cases.csv."""
    regions: int
    to_train: str
    """The command that trains on the mended masks; empty where the data have no clean mask to train by."""
    notes: tuple[str, ...]
    gain: Gain
    """How much better the mended masks are expected to be."""

    def in_rows(self) -> pd.DataFrame:
        return self.cases[["rank", "id", "agreement", "doubtful_share", "changed_pixels", "regions"]].head(10)

    def __str__(self) -> str:
        doubtful = self.cases[self.cases["doubtful_pixels"] > 0]
        worst = ", ".join(f"{row.id} ({row.agreement:.2f})" for row in self.cases.head(5).itertuples())
        return "\n".join([
            *self.notes,
            f"{len(doubtful):,} of {count(len(self.cases), 'mask')} have doubtful pixels, in {count(self.regions, 'region')}",
            f"lowest agreement: {worst}",
            self.gain.sentence().removesuffix("."),
            f"the page is {self.out / 'report.html'}; `{review_command(self.out)}` goes through them, worst first",
            *([f"to train on the mended masks: {self.to_train}"] if self.to_train else []),
        ])  # fmt: skip


def audit(
    run: Path | None = None,
    data: Path | None = None,
    *,
    out: Path,
    probabilities: Path | None = None,
    helped: Path | None = None,
    classes: int | None = None,
    ignore_label: int | None = None,
    weights: str = "last",
    smallest: int = 9,
    sure: float = 0.5,
    batch_size: int | None = None,
    resume: bool = False,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Audited:
    """Judge every noisy mask of a data folder, by a run that was trained on it or on other masks of the same kind, or by probabilities.

    Under `torchrun` every process makes this call and takes its share of the masks; all must see the folders.

    Args:
        run: a run folder whose training has finished. Where it has a helped map of a mask, that counts too; a mask that training has not
            seen, or that was changed since, is judged by the network and by the clean set.
        data: a data folder or table of cases; its noisy masks are audited. Its pairs teach how likely a label is right, where that helps.
        out: the folder to make (see `folder`).
        probabilities: in place of a run: a folder of any program's softmax outputs (see `data.probabilities`). The verdict is fair only
            where those of a mask are by a network that was not trained on that mask: one that has learned a wrong mask agrees with it.
        helped: a folder of helped maps beside the probabilities, <id>.png.
        classes: of the probabilities and the masks, as in `Config`; 1 where not given. A run knows its own, and its `ignore_label`.
        ignore_label: of the masks, as in `Config`.
        weights: of the run: `last`, or `best` by the held-out clean cases.
        smallest: pixels of a region that gets a row; smaller ones are counted and mended all the same.
        sure: a doubtful pixel is mended where the network gives another label more than this probability, ½ to 1.
        batch_size: images in one pass; the run's where not given. Changes speed and memory only.
        resume: continue an audit that was stopped.
        show_progress: progress bars on standard error.
        layout: how the data folder differs from the usual, as for `read_cases`; the audit then keeps the table of cases, as given.csv.

    Raises:
        DataError: every fault of the data at once; or files that cannot be decoded, after all others were looked at.
        RunError: `run` is not a run folder or has not finished, or `out` cannot be used.
        ConfigError: `weights`, `smallest`, `sure` or `batch_size` is invalid; or neither a run nor probabilities are given, or both, or
            what is for the other.

    Example:
        audit("runs/trust", "lesions", out="audit")
        audit(data="lesions", probabilities="nnUNet_results/Dataset027_Lesions/nnUNetTrainer__nnUNetPlans__2d", out="audit")
    """
    if data is None or (run is None) == (probabilities is None):
        raise ConfigError("an audit needs data, and either a run or a folder of probabilities")
    started, data, out = time.perf_counter(), Path(data), Path(out)
    source: Source
    if probabilities is not None:
        _refuse_given("a run, not for probabilities", weights=weights != "last", batch_size=batch_size is not None)
        folder = None if helped is None else Path(helped)
        source = FileSource(Path(probabilities), folder, classes=1 if classes is None else classes, ignore_label=ignore_label)
    else:
        assert run is not None
        of_files = {"helped": helped, "classes": classes, "ignore_label": ignore_label}
        _refuse_given("probabilities, not for a run", **{name: value is not None for name, value in of_files.items()})
        source = RunSource(Run(Path(run)), weights, batch_size)
    _check_numbers(smallest, sure)
    _check_out(out, resume=resume)
    cases = read_cases(data, needed=("noisy",), may_be_volumes=True, show_progress=show_progress, **layout)
    source.refuse_unlike(cases)
    noisy = cases.of("noisy")
    check_names(noisy, data)
    pairs = source.choose_pairs(cases.pairs)
    ranks = source.connect(noisy, pairs)
    auditor = _Auditor(source, data, noisy, pairs, out, smallest, sure, ranks, show_progress=show_progress and ranks.rank == 0)
    with naming_write_errors(out), ExitStack() as held:
        auditor.look(ranks.on_rank_0(lambda: auditor.begin(held)))
        tilt, foreground_value = auditor.compare()
        taught = auditor.learn(tilt)
        gain = measure_gain(taught.dice, auditor.groups, source.has_not_learned(pairs))
        table, regions = auditor.judge_all(tilt, taught.rule, foreground_value)
        ranks.on_rank_0(lambda: auditor.write(table, regions, tilt, gain, cases, layout, started))
    to_train = train_command(out, source.classes, source.ignore_label, patch=source.patch) if cases.of("clean") else ""
    judged = [f"{count(number, 'mask')} judged by {evidence}" for evidence, number in table["evidence"].value_counts().items()]
    notes = (*cases.notes, *source.notes(), *_pair_notes(cases.pairs, taught.rule), *judged)
    return Audited(out, table, len(regions), to_train, notes, gain)


@dataclass(frozen=True)
class _Auditor:
    """A running audit: its source, its cases, its folder and its numbers."""

    source: Source
    data: Path
    cases: CaseList
    """The noisy cases."""
    pairs: CaseList
    """Those to learn from."""
    out: Path
    smallest: int
    sure: float
    ranks: Ranks
    show_progress: bool

    @cached_property
    def writer(self) -> AuditWriter:
        return AuditWriter(self.out, classes=self.source.classes, ignore_label=self.source.ignore_label)

    @cached_property
    def seen(self) -> SeenFolder:
        return SeenFolder(self.out)

    def begin(self, held: ExitStack) -> np.ndarray:
        """Make the folders, locked for this process while `held` lasts; return the places of the cases that were not looked at yet.

        Raises:
            RunError: another process has the lock, or the audit was started with something else.
        """
        make_folder(self.seen.folder)
        held.enter_context(exclusive_lock(self.seen.folder / "lock", f"{self.out}: another process writes this audit; wait for its end"))
        record = self.source.inputs() | {"data": str(self.data.resolve()), "sure": self.sure, "smallest": self.smallest}
        file = self.seen.folder / "of.json"
        if file.is_file() and (before := _read_inputs(file)) != record:
            changed = ", ".join(f"{name} was {before.get(name)}, now {record[name]}" for name in record if before.get(name) != record[name])
            raise RunError(f"{self.out}: this audit was started with others ({changed}); use the same, or another --out")
        self.writer.make_folders()
        write_file(file, json.dumps(record))
        return np.array([place for place, case in enumerate(self.given) if not self.source.has_seen(case, self.seen)], int)

    @cached_property
    def given(self) -> CaseList:
        """The noisy cases, and the pairs as cases with the given mask alone."""
        listed = (self.cases + self.pairs).one_per_mask()
        return listed[listed.has_role("noisy")]

    def _map(
        self,
        work: Callable[[Case], Result],
        cases: CaseList,
        *,
        text: str,
        complaint: str,
        then: Callable[[list[Result]], list[Result]] = lambda results: results,
    ) -> list[Result]:
        """Return the results of all these cases; every rank works on its share, in threads, and hands its results through `then`."""
        share, threads = self.ranks.share(cases), threads_for(cases, self.source.classes)
        return self.ranks.gather_results(
            lambda: then(map_in_threads(work, share, text=text, complaint=complaint, shown=self.show_progress, threads=threads))
        )

    # --- the first pass ---------------------------------------------------------------------------------------------

    def look(self, unseen: np.ndarray) -> None:
        """Keep what the source sees of the cases left."""
        faults: dict[str, str] = {}
        for case, arrays in self.source.look(self.ranks.share(self.given[unseen]), faults, show_progress=self.show_progress):
            self.seen.write(case, arrays)
        for of_rank in self.ranks.all_gather_objects(faults):
            faults |= of_rank
        if faults:
            raise DataError(
                f"{len(faults):,} of {count(len(self.given), 'case')} cannot be used; the others were looked at: repair these and continue "
                "with --resume",
                [faults[identity] for identity in self.given.texts("id") if identity in faults],
            )

    def _decode_mask(self, case: Case) -> tuple[np.ndarray, MaskMeaning]:
        return decode_labels(case.mask, classes=self.source.classes, ignore_label=self.source.ignore_label)

    # --- every mask is judged ---------------------------------------------------------------------------------------

    def compare(self) -> tuple[np.ndarray, int]:
        """Return the tilt of the labels over all cases, and the value that foreground has in files of two labels.

        Raises:
            DataError: files cannot be used, or have values whose meaning is not clear.
        """
        complaint = f"{self.data}: masks that cannot be used"
        confusions, kinds = zip(*self._map(self._compare, self.cases, text="comparing", complaint=complaint), strict=True)
        if faults := mixture_faults(kinds):
            raise DataError(complaint, faults)
        return estimate_tilt(confusions), find_foreground_value(kinds, self.source.ignore_label)

    def _compare(self, case: Case) -> tuple[np.ndarray, MaskMeaning]:
        labels, kind = self._decode_mask(case)
        return self.source.confusion(case, labels, self.seen), kind

    @cached_property
    def groups(self) -> list[str]:
        """The group of every pair."""
        return name_groups(self.pairs.texts("id"), self.pairs.texts("group"))

    def learn(self, tilt: np.ndarray) -> Taught:
        """Return what the pairs teach, and what is done with them."""
        complaint = f"{self.data}: pairs that cannot be measured"
        pixels = self._map(partial(self._sample_pair, tilt=tilt), self.pairs, text="learning from pairs", complaint=complaint)
        return calibrate(pixels, self.groups, tilt, classes=self.source.classes, sure=self.sure)

    def _sample_pair(self, pair: Case, *, tilt: np.ndarray) -> PairPixels:
        assert pair.given is not None
        case = replace(pair, mask=pair.given)
        (given, _), (true, _) = self._decode_mask(case), self._decode_mask(pair)
        evidence = self.source.evidence(case, given, self.seen)
        opinion = _Opinion.of(given, evidence, tilt, None)
        return sample_pair(given, true, evidence.probabilities, self._mend(given, opinion))

    def judge_all(self, tilt: np.ndarray, calibration: Calibration | None, foreground_value: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Write the pictures of every case; return the tables of cases and of regions."""
        judge = partial(self._judge, tilt=tilt, calibration=calibration, foreground_value=foreground_value)
        judged = self._map(
            judge, self.cases, text="auditing", complaint=f"{self.data}: masks that cannot be audited", then=self.writer.syncing
        )
        return join_judged(judged)

    def _judge(self, case: Case, *, tilt: np.ndarray, calibration: Calibration | None, foreground_value: int) -> Judged:
        given, _ = self._decode_mask(case)
        evidence = self.source.evidence(case, given, self.seen)
        opinion = _Opinion.of(given, evidence, tilt, calibration)
        mended = self._mend(given, opinion)
        self.writer.write_pictures(case, given, opinion.confidence, mended, foreground_value)
        spacing = read_header(case.mask).spacing_mm if given.ndim == 3 else None
        regions = list_regions(given, mended, opinion.seen, opinion.confidence, self.smallest, spacing)
        agreement = {"agreement": measure_agreement(given, evidence.probabilities)}
        numbers = agreement | measure_case(given, mended, opinion.seen, opinion.confidence)
        origin = evidence.origin if calibration is None else f"{self.source.alone}, calibrated on {count(calibration.pairs, 'pair')}"
        return describe_files(case) | numbers | {"regions": len(regions), "evidence": origin}, regions

    def _mend(self, given: np.ndarray, opinion: "_Opinion") -> np.ndarray:
        """Return the proposed labels: those that are seen where they contradict doubtful ones and are sure enough."""
        seen, sure = opinion.seen, opinion.probabilities.max(0) > self.sure
        mended = np.where((opinion.confidence < DOUBTFUL_BELOW) & (seen != given) & (given != IGNORE) & sure, seen, given)
        has_foreground = is_foreground(mended).any()
        return mended if has_foreground else given  # people have to judge a lesion that the network does not see at all

    # --- tables and page --------------------------------------------------------------------------------------------

    def write(
        self, table: pd.DataFrame, regions: pd.DataFrame, tilt: np.ndarray, gain: Gain, cases: Cases, layout: Layout, started: float
    ) -> None:
        """Write the tables, the page and, last of all, audit.json; remove what the first pass has kept."""
        from pixeltrust.auditing.page import audit_page  # imported here: it loads matplotlib

        record = AuditRecord(
            data=str(self.writer.write_tables(table, regions, cases, layout)),
            classes=self.source.classes,
            ignore_label=self.source.ignore_label,
            axes=3 if cases.volumes else 2,
            patch=self.source.patch,
            tilt=tuple(round(float(value), 4) for value in tilt),
            gain=gain.values(),
            seconds=round(time.perf_counter() - started, 1),
            **self.source.describe(),
        )
        write_file(self.out / "report.html", audit_page(Audit.of(self.out, record), table, regions))
        write_file(self.out / "audit.json", record.text())
        shutil.rmtree(self.seen.folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Opinion:
    """What is thought of the labels of a mask."""

    probabilities: np.ndarray
    """float32 (K, H, W)."""
    seen: np.ndarray
    """The likeliest labels."""
    confidence: np.ndarray
    """The probability that each given label is right, uint8 (H, W), 0 wrong … 255 right."""

    @classmethod
    def of(cls, given: np.ndarray, evidence: Evidence, tilt: np.ndarray, calibration: Calibration | None) -> "_Opinion":
        """Form it, by the rule that the pairs teach where there is one."""
        probabilities = evidence.probabilities
        if calibration is None:
            confidence = compute_confidence(given, probabilities, tilt, evidence.helped)
        else:
            probabilities = calibration.judge(given, probabilities)
            confidence = compute_confidence(given, probabilities, np.zeros_like(tilt), None)
        return cls(probabilities, most_probable(probabilities), (confidence * 255).round().astype(np.uint8))


def _pair_notes(pairs: CaseList, calibration: Calibration | None) -> list[str]:
    if len(pairs) < FEWEST_PAIRS:
        return []
    notes = [f"`pixeltrust mend` learns from {count(len(pairs), 'pair')} too, and says how good its masks are"]
    return notes if calibration else ["the pairs teach no rule that is surely better than the one without them", *notes]


def _read_inputs(file: Path) -> dict[str, object]:
    """Return what a stopped audit was started with.

    Raises:
        RunError: the file is broken.
    """
    try:
        values = dict(json.loads(file.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read: {one_line(error)}; choose another --out") from None
    return {"helped maps" if name == "trust maps" else name: value for name, value in values.items()}  # the key in earlier versions


def _check_out(out: Path, *, resume: bool) -> None:
    """Check that the folder is free, or holds a stopped audit to be resumed, or raise RunError."""
    if resume and (out / "audit.json").is_file():
        raise RunError(f"{out}: this audit has finished already; choose another --out, or remove it")
    if not (resume and SeenFolder(out).folder.is_dir()):
        require_free(out)


def _refuse_given(whose: str, **given: bool) -> None:
    """Raise ConfigError where something is given that is for the other source."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(f"{', '.join(names)}: for {whose}; leave it out")


def _check_numbers(smallest: int, sure: float) -> None:
    if smallest < 1:
        raise ConfigError(f"smallest must be 1 or more pixels, not {smallest!r}")
    if not 0.5 <= sure < 1:
        raise ConfigError(f"sure must be a probability from 0.5 to below 1, not {sure!r}")
