"""The audit of noisy masks: the network looks at every image, then every mask is compared with what it and training say.

The first pass is the network's and takes the time; it leaves what it saw on the grid of training in AUDIT/.seen, where `resume`
finds it. The second needs them all, for the tilt, and judges, mends and measures each case in a thread. Several processes (see `ranks`)
share the cases in both; rank 0 writes the tables.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, Unpack

import numpy as np
import pandas as pd
import torch

from pixeltrust.auditing.evidence import CleanSet
from pixeltrust.auditing.folder import CASE_COLUMNS, REGION_COLUMNS, SURE, AuditRecord, review_command, train_command
from pixeltrust.auditing.page import audit_page
from pixeltrust.auditing.regions import agreement, case_row, region_rows
from pixeltrust.auditing.scores import confidence_of, confusion_of, tilt_of
from pixeltrust.config import Config
from pixeltrust.data.cases import Case, CaseList, read_cases, table_of
from pixeltrust.data.images import read_image, read_labels, resize_image, resize_labels, write_png
from pixeltrust.data.layouts import Layout, layout_options
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults
from pixeltrust.plumbing.errors import ConfigError, DataError, PixeltrustError, RunError
from pixeltrust.plumbing.files import exclusive_lock, make_folder, naming_write_errors, require_free, write_atomically, write_file
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.progress import attempt_in_threads, map_in_threads
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.plumbing.text import count, one_line
from pixeltrust.prediction.network import Network, choose_device, read_network, resize_plane, to_tensor
from pixeltrust.training.helped_maps import fingerprint, has_helped_maps, read_helped_map
from pixeltrust.training.run_folder import Run

SEEN = ".seen"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Audited:
    """What an audit found; `str` of it is what a person wants to read at its end."""

    out: Path
    cases: pd.DataFrame
    """As cases.csv."""
    regions: int
    to_train: str
    """The command that trains on the mended masks; empty where the data have no clean mask to train by."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        doubtful = self.cases[self.cases["doubtful_pixels"] > 0]
        worst = ", ".join(f"{row.id} ({row.agreement:.2f})" for row in self.cases.head(5).itertuples())
        pages = f"the page is {self.out / 'report.html'}; `{review_command(self.out)}` goes through them, worst first"
        return "\n".join([
            *self.notes,
            f"{len(doubtful):,} of {count(len(self.cases), 'mask')} have doubtful pixels, in {count(self.regions, 'region')}",
            f"lowest agreement: {worst}",
            pages,
            *([f"to train on the mended masks: {self.to_train}"] if self.to_train else []),
        ])  # fmt: skip


def audit(
    run: Path,
    data: Path,
    *,
    out: Path,
    weights: str = "last",
    smallest: int = 9,
    sure: float = 0.5,
    batch_size: int | None = None,
    resume: bool = False,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Audited:
    """Judge every noisy mask of a data folder, by a run that was trained on it, or on other masks of the same kind.

    Under `torchrun` every process makes this call and takes its share of the masks; all must see `run`, `data` and `out`.

    Args:
        run: a run folder whose training has finished. Where it has a trust map of a mask, that counts too; a mask that training has not
            seen, or that was changed since, is judged by the network and by what the clean set says of it now.
        data: a data folder or table of cases; its noisy masks are audited.
        out: the folder to make (see `audits`).
        weights: `last`, or `best` by the held-out clean cases.
        smallest: pixels of a region that gets a row; smaller ones are counted and mended all the same.
        sure: a doubtful pixel is mended where the network gives another label more than this probability, ½ to 1.
        batch_size: images in one pass; the run's where not given. Changes speed and memory only.
        resume: go on with an audit that was stopped.
        show_progress: progress bars on standard error.
        layout: what is other in the data folder than usual, as for `read_cases`; a table, given.csv, then remembers what that gave.

    Raises:
        DataError: every fault of the data in one go; or files that cannot be decoded, after all others were looked at.
        RunError: `run` is none or has not finished, or `out` cannot be used.
        ConfigError: `weights`, `smallest`, `sure` or `batch_size` is none that there is.
    """
    out, started = Path(out), time.perf_counter()
    of_run = Run(Path(run))
    config, model, notes = read_network(of_run, weights)
    _check_numbers(smallest, sure)
    if resume and (out / "audit.json").is_file():
        raise RunError(f"{out}: this audit has come to its end already; choose another --out, or remove it")
    if not (resume and (out / SEEN).is_dir()):
        require_free(out)
    cases = read_cases(Path(data), needed=("noisy",), show_progress=show_progress, **layout)
    noisy = cases.of("noisy")
    _check_names(noisy, data)
    device, ranks, moved = choose_device(config)
    network = Network(device, model, config, batch_size)
    work = _Audit(of_run, config, out, smallest, sure, ranks, show_progress and ranks.rank == 0)

    def write(table: pd.DataFrame, regions: pd.DataFrame, tilt: np.ndarray) -> None:
        write_csv(regions, out / "regions.csv")
        with write_atomically(out / "cases.csv") as unfinished:
            table.to_csv(unfinished, index=False)
        write_csv(_mended_table(cases.of("noisy") + cases.of("clean") + cases.of("test"), out), out / "mended.csv")
        given = Path(data)
        if layout_options(layout):
            given = out / "given.csv"
            write_csv(table_of(cases.cases), given)
        record = AuditRecord(
            data=str(given.resolve()),
            run=str(of_run.folder.resolve()),
            weights=weights,
            classes=config.classes,
            ignore_label=config.ignore_label,
            channels=config.channels,
            tilt=tuple(round(float(value), 4) for value in tilt),
            seconds=round(time.perf_counter() - started, 1),
        )
        write_file(out / "report.html", audit_page(out, record, table, regions))
        write_file(out / "audit.json", record.text())
        shutil.rmtree(out / SEEN, ignore_errors=True)

    with naming_write_errors(out), ExitStack() as held:
        todo = ranks.on_rank_0(lambda: work.begin(work.of(Path(data), weights), noisy, held))
        clean, without = _clean_set(of_run, network)
        work.look(network, clean, todo, noisy)
        tilt, lesion = work.compared(noisy, data)
        judge = partial(work.judge, tilt=tilt, lesion=lesion)
        judged = work.of_all(judge, noisy, text="auditing", complaint=f"{data}: masks that cannot be audited")
        table, regions = _tables(judged)
        ranks.on_rank_0(lambda: write(table, regions, tilt))
    to_train = train_command(out, config.classes, config.ignore_label) if cases.of("clean") else ""
    return Audited(out, table, len(regions), to_train, tuple([*notes, *moved, *cases.notes, *without, *_evidence_notes(of_run, table)]))


@dataclass(frozen=True)
class _Audit:
    run: Run
    config: Config
    out: Path
    smallest: int
    sure: float
    ranks: Ranks
    show_progress: bool

    def of(self, data: Path, weights: str) -> dict[str, object]:
        """What must be the same where an audit is gone on with."""
        return {
            "run": str(self.run.folder.resolve()),
            "data": str(data.resolve()),
            "weights": f"{weights} ({self.run.fingerprint(weights)})",
            "trust maps": has_helped_maps(self.run),
            "sure": self.sure,
            "smallest": self.smallest,
        }

    def begin(self, of: dict[str, object], cases: CaseList, held: ExitStack) -> np.ndarray:
        """Make the folders, for this process alone; where they are there already, they must be of the same audit. Which cases have not
        been looked at."""
        make_folder(self.out / SEEN)
        held.enter_context(exclusive_lock(self.out / SEEN / "lock", f"{self.out}: another process writes this audit; wait for its end"))
        begun = self.out / SEEN / "of.json"
        if begun.is_file() and (before := _begun_with(begun)) != of:
            changed = ", ".join(f"{name} was {before.get(name)}, now {of[name]}" for name in of if before.get(name) != of[name])
            raise RunError(f"{self.out}: this audit was begun with others ({changed}); give the same again, or another --out")
        for name in ("trust", "mended", "changed"):
            make_folder(self.out / name)
        write_file(begun, json.dumps(of))
        return np.array([place for place, case in enumerate(cases) if not self._seen_file(case).is_file()], int)

    def of_all(self, work: Callable[[Case], Result], cases: CaseList, *, text: str, complaint: str) -> list[Result]:
        """As `map_in_threads`, every rank doing its share."""
        share = self.ranks.share(cases)
        return self.ranks.gather_results(lambda: map_in_threads(work, share, text=text, complaint=complaint, shown=self.show_progress))

    # --- the network looks ------------------------------------------------------------------------------------------

    def look(self, network: Network, clean: CleanSet | None, todo: np.ndarray, cases: CaseList) -> None:
        """Leave what the network sees, and the clean set where training has not said it, of every case that has none yet."""
        faults: dict[str, str] = {}
        decoded = attempt_in_threads(self._decoded, self.ranks.share(cases[todo]), text="looking", shown=self.show_progress)
        for case, seen in _looked_at(network, clean, decoded, faults):
            with write_atomically(self._seen_file(case)) as unfinished, unfinished.open("wb") as file:
                np.savez(file, **seen)  # type: ignore[arg-type]
        for of_rank in self.ranks.all_gather_objects(faults):
            faults |= of_rank
        if faults:
            raise DataError(
                f"{len(faults):,} of {count(len(cases), 'case')} cannot be read; the others were looked at: mend these, and continue with "
                "--resume",
                [faults[identity] for identity in cases.texts("id") if identity in faults],
            )

    def _decoded(self, case: Case) -> "_Decoded":
        labels = resize_labels(self._decoded_mask(case)[0], self.config.size)
        picture = resize_image(read_image(case.image, self.config.channels), self.config.size)
        return _Decoded(picture, labels, trained=read_helped_map(self.run, case.id, labels) is not None)

    def _seen_file(self, case: Case) -> Path:
        return self.out / SEEN / f"{case.id}.npz"

    def _seen(self, case: Case) -> "_Seen":
        file = self._seen_file(case)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                kept = arrays["probabilities"].astype(np.float32)
                helped = arrays["helped"].astype(np.float32) if "helped" in arrays else None
                mask = str(arrays["mask"])
            shapes = kept.shape, self.config.size if helped is None else helped.shape
            if shapes != ((self.config.classes, *self.config.size), self.config.size):
                raise ValueError(f"its shapes {shapes} are not those of {self.config.classes} classes at {self.config.size}")
        except Exception as error:  # a broken file makes its reader raise anything
            raise RunError(f"{file}: cannot be read: {one_line(error)}; remove it, and continue with --resume") from None
        return _Seen(np.concatenate([1 - kept, kept]) if len(kept) == 1 else kept, helped, mask)

    # --- every mask is compared -------------------------------------------------------------------------------------

    def compared(self, cases: CaseList, data: Path) -> tuple[np.ndarray, int]:
        """The tilt of the labels over all cases, and the value that lesion has in files of two labels.

        Raises:
            DataError: files that cannot be used, or of which one knows no longer what 255 means.
        """
        complaint = f"{data}: masks that cannot be used"
        confusions, kinds = zip(*self.of_all(self._compared, cases, text="comparing", complaint=complaint), strict=True)
        if faults := mixture_faults(kinds):
            raise DataError(complaint, faults)
        ignores = self.config.ignore_label is not None or any(kind.meaning == "ignored" for kind in kinds)
        return tilt_of(confusions), 1 if ignores else 255

    def _compared(self, case: Case) -> tuple[np.ndarray, MaskMeaning]:
        labels, kind = self._decoded_mask(case)
        return confusion_of(resize_labels(labels, self.config.size), self._seen(case).probabilities), kind

    def _decoded_mask(self, case: Case) -> tuple[np.ndarray, MaskMeaning]:
        return decode_labels(case.mask, classes=self.config.classes, ignore_label=self.config.ignore_label)

    def judge(self, case: Case, *, tilt: np.ndarray, lesion: int) -> tuple[dict[str, object], list[dict[str, object]]]:
        """The row of a case and those of its regions, after its pictures were written."""
        given, _ = self._decoded_mask(case)
        small, seen_of = resize_labels(given, self.config.size), self._seen(case)
        if seen_of.mask != fingerprint(small):
            seen_file = self._seen_file(case)
            raise DataError(f"{case.mask}: has changed since this audit looked at it; remove {seen_file}, and continue with --resume")
        probabilities = np.stack([resize_plane(plane, given.shape) for plane in seen_of.probabilities])
        learned = read_helped_map(self.run, case.id, small)
        shares = seen_of.helped if learned is None else learned
        grown = None if shares is None else resize_plane(shares, given.shape)
        trust = (confidence_of(given, probabilities, tilt, grown) * 255).round().astype(np.uint8)
        seen = probabilities.argmax(0).astype(np.uint8)
        mend = (trust < SURE) & (seen != given) & (given != IGNORE) & (probabilities.max(0) > self.sure)
        mended = np.where(mend, seen, given)
        if not ((mended > 0) & (mended != IGNORE)).any():  # a lesion that nobody sees is for people to judge
            mend, mended = np.zeros_like(mend), given
        write_png(self.out / "trust" / f"{case.id}.png", trust)
        write_png(self.out / "mended" / f"{case.id}.png", self._as_in_the_file(case, given, mended, lesion))
        changed = self.out / "changed" / f"{case.id}.png"
        if mend.any():
            write_png(changed, mend.astype(np.uint8) * 255)
        else:  # there may be one of a time before this audit was stopped
            changed.unlink(missing_ok=True)
        regions = region_rows(given, mended, seen, trust, self.smallest)
        row = {"id": case.id, "image": str(case.image.absolute()), "mask": str(case.mask.absolute())}
        numbers = {"agreement": agreement(given, probabilities)} | case_row(given, mended, seen, trust)
        evidence = "network and training" if learned is not None else "network" if shares is None else "network and clean set"
        return row | numbers | {"regions": len(regions), "evidence": evidence}, regions

    def _as_in_the_file(self, case: Case, given: np.ndarray, mended: np.ndarray, lesion: int) -> np.ndarray:
        """Labels as the values that the given mask's file has for them, or the others' where it has no lesion itself."""
        values = np.arange(256, dtype=np.uint8)
        if self.config.classes == 1:
            kept = read_labels(case.mask)
            drawn, ignored = kept[given == 1], kept[given == IGNORE]
            values[1] = drawn[0] if drawn.size else lesion
            values[IGNORE] = ignored[0] if ignored.size else 255
        elif self.config.ignore_label is not None:
            values[IGNORE] = self.config.ignore_label
        return values[mended]


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A case on the grid of training."""

    picture: np.ndarray
    labels: np.ndarray
    trained: bool
    """Whether the run has a trust map of this mask."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the first pass left of a case, on the grid of training."""

    probabilities: np.ndarray
    """float32 (K, h, w), K ≥ 2."""
    helped: np.ndarray | None
    """The shares (h, w) by the clean set, where training has not said them."""
    mask: str
    """The fingerprint of the labels that it looked at."""


def _begun_with(file: Path) -> dict[str, object]:
    """Which run and data an audit was begun with."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read: {one_line(error)}; choose another --out") from None


def _clean_set(run: Run, network: Network) -> tuple[CleanSet | None, list[str]]:
    """The clean set, if the network can be asked for gains; else what to say."""
    try:
        clean = CleanSet(run, network.config, network.module, network.device)
        size = (1, network.config.channels, *network.config.size)
        clean.helped(torch.zeros(size, device=network.device), np.zeros((1, *network.config.size), np.uint8))
    except (PixeltrustError, ValueError) as error:
        return None, [f"the clean set was not asked about masks that training has not seen: {' '.join(str(error).split())}"]
    return clean, []


def _looked_at(
    network: Network, clean: CleanSet | None, decoded: Iterable[tuple[Case, _Decoded | PixeltrustError]], faults: dict[str, str]
) -> Iterator[tuple[Case, dict[str, np.ndarray]]]:
    """Every case that could be decoded, with its probabilities (K, h, w), and shares (h, w) of what training has not seen."""
    waiting: list[tuple[Case, _Decoded]] = []

    def flushed() -> Iterator[tuple[Case, dict[str, np.ndarray]]]:
        cases, ready = zip(*waiting, strict=True)
        planes = network.probabilities_over_turns([one.picture for one in ready]).astype(np.float16)
        seen = [{"probabilities": values, "mask": np.array(fingerprint(one.labels))} for values, one in zip(planes, ready, strict=True)]
        new = [place for place, one in enumerate(ready) if not one.trained]
        if clean is not None and new:
            images = to_tensor([ready[place].picture for place in new]).to(network.device)
            for place, shares in zip(new, clean.helped(images, np.stack([ready[place].labels for place in new])), strict=True):
                seen[place]["helped"] = shares.astype(np.float16)
        yield from zip(cases, seen, strict=True)
        waiting.clear()

    for case, one in decoded:
        if isinstance(one, PixeltrustError):
            faults[case.id] = str(one)
            continue
        waiting.append((case, one))
        if len(waiting) == network.batch_size:
            yield from flushed()
    if waiting:
        yield from flushed()


def _tables(judged: list[tuple[dict[str, object], list[dict[str, object]]]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """cases.csv and regions.csv."""
    table = pd.DataFrame([row for row, _ in judged])
    table = table.sort_values(["agreement", "doubtful_share", "id"], ascending=[True, False, True], kind="stable")
    table = table.assign(rank=range(1, len(table) + 1)).reindex(columns=list(CASE_COLUMNS)).round({"agreement": 5, "doubtful_share": 5})
    rank = dict(zip(table["id"], table["rank"], strict=True))
    rows = [{"rank": rank[row["id"]], "id": row["id"]} | region for row, regions in judged for region in regions]
    regions = pd.DataFrame(rows, columns=list(REGION_COLUMNS)).sort_values(["rank", "region"], kind="stable", ignore_index=True)
    return table.reset_index(drop=True), regions.round({"share": 5, "confidence": 4})


def _mended_table(cases: CaseList, out: Path) -> pd.DataFrame:
    """A table of cases in which noisy masks are the mended ones."""
    table = table_of(cases).drop(columns="held_out").astype(str)
    noisy = table["role"] == "noisy"
    table.loc[noisy, "mask"] = [str((out / "mended" / f"{one}.png").absolute()) for one in table.loc[noisy, "id"]]
    return table


def _check_names(noisy: CaseList, data: Path) -> None:
    """Whether the tables of an audit can hold what the cases are called."""
    faults = [f"{one!r}: an id with a backslash; rename the case" for one in noisy.texts("id") if "\\" in one]
    for file in dict.fromkeys(path for case in noisy for path in (case.image, case.mask)):
        try:
            str(file.absolute()).encode()
        except UnicodeEncodeError:
            faults.append(f"{str(file)!r}: no UTF-8, which a table of cases needs; rename it, or its folder")
    if faults:
        raise DataError(f"{data}: names that cannot be audited", faults)


def _check_numbers(smallest: int, sure: float) -> None:
    if smallest < 1:
        raise ConfigError(f"smallest must be 1 or more pixels, not {smallest!r}")
    if not 0.5 <= sure < 1:
        raise ConfigError(f"sure must be a probability from 0.5 to below 1, not {sure!r}")


def _evidence_notes(run: Run, table: pd.DataFrame) -> list[str]:
    notes = []
    if not run.finished():
        notes.append(f"{run.folder}: what it learns to trust is written at its end, so only the clean set was asked")
    elif not has_helped_maps(run):
        notes.append(f"{run.folder}: its method has learned no trust maps (trust, pixel and image do)")
    for evidence, number in table["evidence"].value_counts().items():
        notes.append(f"{count(number, 'mask')} judged by {evidence}")
    return notes
