"""Checks a run directory without its lock or a trace, also beside a live run; `verify_run` reads from top to bottom.

Nothing is believed that can be looked at: every cell of the grid in the manifest, every part and journal, every file's
bytes, every cent. It mends nothing: each problem says what to do.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from batchflux.app.account import AccountStanding, check_account
from batchflux.app.blocks import read_blocks
from batchflux.app.family import replicates_of, run_command
from batchflux.app.findings import Findings
from batchflux.app.job import Job, load_job, shown_path
from batchflux.app.manifestcheck import COMPARED_COLUMNS, ManifestCheck, check_manifest
from batchflux.app.publish import is_manifest_current
from batchflux.app.reading import read_known
from batchflux.app.resume import Known
from batchflux.app.review import Review, review_run
from batchflux.app.rundir import IDENTITY_FILE, RunIdentity
from batchflux.core.budget import usd
from batchflux.core.errors import JobSpecError, UsageError
from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES, count_codes
from batchflux.io.filecheck import IMAGES_DIR, FileCheck, check_files, list_strays
from batchflux.io.lock import is_run_at_work
from batchflux.io.manifest import MANIFEST
from batchflux.io.recovery import list_torn

__all__ = ["Verification", "verify_run"]

_MOST_NAMED: Final = 1000
# How long before its fact a live run may save an image, flushes and a stopped process included.
_SAVED_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check found. `cells` counts by status, None where spec, table or checkpoint can't be believed.

    Money in USD; `account` is None where it wasn't asked for or couldn't be asked.
    """

    name: str
    run_dir: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    cells: dict[str, int] | None
    files: int
    size_bytes: int
    cost_usd: float
    account: AccountStanding | None = field(default=None)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def exit_status(self) -> int:
        """What the command line ends with."""
        return 0 if self.ok else 1

    def as_json(self) -> str:
        """Return it as one JSON object."""
        found = {"ok": self.ok, **asdict(self), "run_dir": str(self.run_dir)}
        return json.dumps(found, ensure_ascii=False)

    def __str__(self) -> str:
        count = len(self.problems)
        verdict = "sound" if self.ok else f"{count:,} problem{'s' if count > 1 else ''}"
        text = [f"{self.name}: {verdict}, {shown_path(self.run_dir)}", *(f"  {line}" for line in self.problems)]
        if self.cells is not None:
            by_status = ", ".join(f"{count:,} {status}" for status, count in self.cells.items() if count)
            text.append(f"  {sum(self.cells.values()):,} cells: {by_status}")
        text.append(f"  {self.files:,} files looked at, {self.size_bytes / 1e6:,.1f} MB")
        text.append(f"  cost {usd(round(self.cost_usd * 1e6))}")
        if self.account is not None:
            text += [f"  {line}" for line in self.account.lines()]
        text += [f"  note: {line}" for line in self.notes]
        return "\n".join(text)


def verify_run(
    run_dir: Path,
    *,
    account: bool = False,
    allow_hosts: frozenset[str] = frozenset(),
    now_ms: int | None = None,
    on_files: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a run directory and its replicates, with `account` also against the service's own history and charges.

    `allow_hosts` may be sent the key, as with `run`; `now_ms` is our clock, for refunds that take hours;
    `on_files(looked at, in all)` hears how far the files are. Raises UsageError where no run was begun.
    """
    began_ms = time.time_ns() // 1_000_000
    now_ms = began_ms if now_ms is None else now_ms
    findings = Findings()
    is_at_work = is_run_at_work(run_dir)
    identity = _read_identity(run_dir, findings)
    job = _read_job(run_dir, findings) if identity is not None else None
    with review_run(run_dir, identity, keeps_predictions=account) as review:
        _tell_damage(review, findings)
        known = read_known(job.grid, run_dir, identity) if job is not None and review.is_whole else None
        _check_states(review, findings)
        if known is not None and job is not None:
            _note_unsaved(job, known, findings, is_at_work=is_at_work)
            # Asked again: one that began since may have made the facts newer than the manifest.
            _check_manifest(job, identity, findings, is_at_work=is_at_work or is_run_at_work(run_dir))
        if review.is_whole:
            _check_costs(review, job, findings)
        standing = None
        if account:
            standing = _check_account(
                job, identity, review, findings, allow_hosts=allow_hosts, is_at_work=is_at_work, now_ms=now_ms
            )
        # A run at work has saved images since its facts were read, and saves a file a moment before it says so.
        until_ms = began_ms - _SAVED_MS if is_at_work else None
        check = _check_files(run_dir, review, findings, strays_until_ms=until_ms, on_files=on_files)
    within = [
        verify_run(place, account=account, allow_hosts=allow_hosts, now_ms=now_ms) for place in replicates_of(run_dir)
    ]
    return Verification(
        name=job.name if job is not None else run_dir.absolute().name,
        run_dir=run_dir,
        problems=(*findings.problems.lines(), *_of_replicates(run_dir, within, "problems")),
        notes=(*findings.notes.lines(), *_of_replicates(run_dir, within, "notes")),
        cells=_count(known) if known is not None else None,
        files=check.files + sum(each.files for each in within),
        size_bytes=check.size_bytes + sum(each.size_bytes for each in within),
        cost_usd=review.cost_micro_usd / 1e6,
        account=standing,
    )


def _of_replicates(run_dir: Path, within: list[Verification], what: Literal["problems", "notes"]) -> Iterator[str]:
    for each in within:
        for line in each.problems if what == "problems" else each.notes:
            yield f"{each.run_dir.relative_to(run_dir)}: {line}"


def _read_identity(run_dir: Path, findings: Findings) -> RunIdentity | None:
    try:
        identity = RunIdentity.read(run_dir)
    except UsageError as error:
        findings.problems.add("unreadable", IDENTITY_FILE, str(error))
        return None
    if identity is None:
        raise UsageError(f"{shown_path(run_dir)}: no run was begun here, so there is nothing to check")
    return identity


def _read_job(run_dir: Path, findings: Findings) -> Job | None:
    try:
        return load_job(run_dir)
    except (JobSpecError, UsageError) as error:
        for problem in error.problems if isinstance(error, JobSpecError) else [error]:
            findings.problems.add("unreadable spec or table", str(problem), "put back the copy that the run made")
        return None


def _tell_damage(review: Review, findings: Findings) -> None:
    for line in review.damage:
        findings.problems.add(
            "damaged", line, "put the file back from a copy of this directory; until then no run spends anything here"
        )
    for torn in list_torn(review.run_dir):
        findings.notes.add(
            "a torn end",
            f"{torn.path.parent.name}/{torn.path.name}",
            "the next run looks in the service's history for what it may have held, before it submits anything",
        )
    if review.damage:
        findings.notes.add(
            "not checked",
            "statuses and costs",
            "facts are missing, so that they can't be held against the manifest or added up",
        )


def _check_states(review: Review, findings: Findings) -> None:
    """Tell what is wrong with cells' states in themselves, where all facts are there."""
    if not review.is_whole:
        return
    add = findings.problems.add_each
    report = "please report this, with run.log"
    found = review.nameless
    add("completed without a prediction", found.names, count=found.count, instead=report)
    found = review.strange
    add(
        "unknown status",
        found.names,
        count=found.count,
        instead="the checkpoint was written by a newer batchflux, or forged",
    )
    found = review.shared
    add(
        "one prediction, several cells",
        found.names,
        count=found.count,
        instead="all but one of the cells have another's image: please report this, with run.log",
    )
    found = review.uneven
    add("files without hash or size", found.names, count=found.count, instead=report)


def _note_unsaved(job: Job, known: Known, findings: Findings, *, is_at_work: bool) -> None:
    """Say how many completed cells lack their images, which is no damage: the run fetches them, or a later one."""
    is_completed = known.statuses == STATUS_CODES[CellStatus.COMPLETED]
    count = int((is_completed & ~known.states.is_saved()).sum())
    if count and job.spec.output.download:
        fetch = "the run at work fetches them"
        if not is_at_work:
            fetch = f"{run_command(job.run_dir)} --download-only fetches them at no cost, within 7 days"
        findings.notes.add("images not on the disk", f"of {count:,} completed cells", fetch)


def _check_manifest(job: Job, identity: RunIdentity | None, findings: Findings, *, is_at_work: bool) -> None:
    """Hold the manifest against the checkpoint; one that is merely older is told as that."""
    command = run_command(job.run_dir)
    anew = f"delete it, and {command} writes it anew from the checkpoint"
    is_current = is_manifest_current(job.run_dir)
    try:
        blocks = read_blocks(job.grid, job.run_dir, identity, columns=COMPARED_COLUMNS)
        check = check_manifest(job.run_dir / MANIFEST, job.grid, blocks)
    except FileNotFoundError:
        if is_at_work:
            findings.notes.add("no manifest yet", MANIFEST, "the run at work writes it now and then, and at its end")
        else:
            findings.problems.add("missing", MANIFEST, f"{command} goes on and writes it from the checkpoint")
        return
    if check.unreadable is not None:
        findings.problems.add("unreadable", f"{MANIFEST} {check.unreadable}", anew)
    elif is_at_work and check.n_wrong:
        findings.notes.add(
            "older than the checkpoint",
            f"{MANIFEST}: {check.n_wrong:,} of {job.grid.n_cells:,} cells differ",
            "the run at work writes it now and then, and at its end",
        )
    elif not is_current and check.n_wrong:
        findings.problems.add(
            "older than the checkpoint",
            f"{MANIFEST}: {check.n_wrong:,} of {job.grid.n_cells:,} cells differ",
            f"{command} goes on and writes it anew",
        )
    elif not is_at_work:
        _tell_manifest(check, findings, anew=anew)


def _tell_manifest(check: ManifestCheck, findings: Findings, *, anew: str) -> None:
    problems = findings.problems
    for what, names, count in (
        ("cell missing in the manifest", check.missing, check.n_missing),
        ("cell more than once in the manifest", check.doubled, check.n_doubled),
        ("no cell of the job in the manifest", check.foreign, check.n_foreign),
    ):
        problems.add_each(what, names, count=count, instead=anew)
    problems.add_each(
        "manifest against checkpoint",
        (f"cell {cell.cell_id}: {cell.column} is {cell.said}, not {cell.known}" for cell in check.altered),
        count=check.n_altered,
        instead=anew,
    )
    if not check.is_in_order:
        problems.add("out of order", MANIFEST, anew)


def _check_costs(review: Review, job: Job | None, findings: Findings) -> None:
    """Hold each cell's cost against its facts, and their sum against the budget."""
    findings.problems.add_each(
        "cost doesn't add up",
        review.wrong_costs.names,
        count=review.wrong_costs.count,
        instead="its history was altered: hold it against the account with --account",
    )
    budget = job.spec.run.budget_micro_usd if job is not None else None
    if budget is not None and review.cost_micro_usd > budget:
        findings.problems.add(
            "over the budget",
            f"the run has cost {usd(review.cost_micro_usd)}, run.budget is {usd(budget)}",
            "where the budget was not lowered since, please report this",
        )


def _check_files(
    run_dir: Path,
    review: Review,
    findings: Findings,
    *,
    strays_until_ms: int | None,
    on_files: Callable[[int, int], None] | None,
) -> FileCheck:
    """Look at every file that the facts name, and for files that none names."""
    done = 0

    def progress(files: int) -> None:
        nonlocal done
        done += files
        if on_files is not None:
            on_files(done, review.files)

    again = f"{run_command(run_dir)} --download-only fetches it again at no cost, within 7 days"
    instead = {"missing": again, "damaged": again, "unreadable": f"mend or move it; {again}"}
    check = FileCheck(on_progress=progress)
    if review.files:
        for state in review.states():
            for fault in check_files(run_dir, state, check):
                what = "missing" if fault.kind == "missing" else f"{fault.kind} file"
                findings.problems.add(what, f"{fault.path} (cell {fault.cell_id}) {fault.detail}", instead[fault.kind])
    strays, count = list_strays(run_dir, review.named_files, most=_MOST_NAMED, until_ms=strays_until_ms)
    findings.notes.add_each(
        "a file that no cell names",
        strays,
        count=count,
        instead="it harms nothing" if review.is_whole else f"its facts may be among the damaged; keep {IMAGES_DIR}/",
    )
    return check


def _check_account(
    job: Job | None,
    identity: RunIdentity | None,
    review: Review,
    findings: Findings,
    *,
    allow_hosts: frozenset[str],
    is_at_work: bool,
    now_ms: int,
) -> AccountStanding | None:
    if job is None or identity is None:
        findings.problems.add("account not asked", "spec or run.json can't be read", "they say whose account it is")
        return None
    return check_account(
        job,
        identity,
        review.books,
        findings,
        unknown_cells=review.unknown_cells,
        allow_hosts=allow_hosts,
        is_at_work=is_at_work,
        now_ms=now_ms,
    )


def _count(known: Known) -> dict[str, int]:
    counts = count_codes(known.statuses)
    return {str(status): int(counts[code]) for status, code in STATUS_CODES.items()}
