"""Writes the report of a tuning log: what there is to show is read, gathered, and put on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mobilenet_tvm.compile.analysis.peak import Peak, measure_peak
from mobilenet_tvm.compile.logs.log import TuningLog, in_words, user_log
from mobilenet_tvm.compile.models.source import ModelOptions
from mobilenet_tvm.compile.output_file import prepare_output
from mobilenet_tvm.compile.report.data import Report, Setting, choose_setting, gather
from mobilenet_tvm.compile.report.json_files import Profile, read_peers, read_profile
from mobilenet_tvm.compile.report.page import write
from mobilenet_tvm.compile.tuning.layers import find_layers
from mobilenet_tvm.compile.tuning.records import read_trials
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.host import machine_name
from mobilenet_tvm.targets.presets import PRESETS, get_target, native
from mobilenet_tvm.targets.target import Target

#: Options of the command line that do not have the names of their fields.
_OPTION_NAMES = {"input_shapes": "input-shape"}


@dataclass(frozen=True)
class ReportResult:
    """A report on disk.

    Parameters
    ----------
    path : Path
        The page.
    report : Report
        What it shows.
    logs : tuple of TuningLog
        The log and its trials, with the lines that could not be used.
    """

    path: Path
    report: Report
    logs: tuple[TuningLog, ...]


def write_report(
    output: str | Path = "report.html",
    *,
    log: str | Path | None = None,
    target: str | Target | None = None,
    models: Sequence[str | Path] = (),
    model_options: ModelOptions | None = None,
    profiles: Sequence[str | Path] = (),
    peers: str | Path | None = None,
    threads: int | None = None,
    peak: Peak | None = None,
) -> ReportResult:
    """Write one HTML page from a tuning log, its trials, profiles and latencies of other runtimes.

    Parameters
    ----------
    output : str or Path
        The page to write.
    log : str or Path, optional
        A tuning log; its trials are in `<name>.trials.jsonl` beside it. Default: the user's own log
        of the target.
    target : str or Target, optional
        Only its records. Default: this machine, or, where `log` is given, whatever that holds.
    models : sequence of str or Path
        Only layers of these models, names or ONNX files, counted by calls. Default: all layers.
    model_options : ModelOptions, optional
        For each of the models.
    profiles : sequence of str or Path
        Files of what `mobilenet-tvm profile --json` printed: calls, the peak, times in the network.
    peers : str or Path, optional
        A file of what `benchmarks/peers.py --json` printed.
    threads : int, optional
        Only records with so many threads. Default: the profiles' number, or the latest record's.
    peak : Peak, optional
        What the machine can do. Default: the profiles', or measured, if this is the log's device.

    Returns
    -------
    ReportResult
        The page and what it shows.

    Raises
    ------
    UserError
        If there is nothing to show, a file cannot be read, or the page cannot be written.
    """
    model_options = model_options or ModelOptions()
    if not models:
        _refuse(model_options)
    machine = get_target(target) if isinstance(target, str) else target
    path = Path(log) if log else user_log(machine or native())
    must_exist = log is not None or path.exists()
    records = TuningLog.read(path, machine) if must_exist else TuningLog(path, machine)
    trials = read_trials(path, machine)
    read_profiles = [read_profile(Path(file)) for file in profiles]
    peer_rows = read_peers(Path(peers)) if peers else ()
    setting = choose_setting([*records.records, *trials.records], read_profiles, threads)
    if setting is None and not peer_rows:
        skipped = in_words(records.skipped_by_reason)
        why = f" ({skipped})" if skipped else ""
        raise UserError(f"{path}: holds no record{why}; run 'tune' first, or name a log with --log")
    networks = None
    if models:
        networks = find_layers(models, machine or _machine(setting), model_options)
    output = Path(output)
    prepare_output(output, path, *models, *profiles, peers)
    report = gather(
        setting,
        records.records,
        trials.records,
        networks=networks,
        profiles=read_profiles,
        peers=peer_rows,
        names=[Path(name).stem for name in models or [profile.file for profile in read_profiles]],
        peak=peak or _peak(setting, read_profiles),
    )
    if not (report.timed or peer_rows):
        raise UserError(f"{path}: no record of these layers; run 'tune' with the same --model")
    write(report, output)
    return ReportResult(output, report, (records, trials))


def _refuse(options: ModelOptions) -> None:
    """Refuse options of models where no model is given."""
    for option in fields(options):
        if getattr(options, option.name) is not None:
            name = _OPTION_NAMES.get(option.name, option.name)
            raise WrongUseError(f"--{name} says which model is meant; give --model too")


def _machine(setting: Setting | None) -> Target:
    """Return the machine that a setting's layers were tuned for; this one has its own caches."""
    if setting is None or not setting.target:
        return native()
    if setting.device == machine_name() and setting.target == native().preset:
        return native()
    return PRESETS[setting.target]


def _peak(setting: Setting | None, profiles: Sequence[Profile]) -> Peak | None:
    """Return the machine's limits, from the profiles, or measured if it is this one."""
    if profiles:
        return max((profile.peak for profile in profiles), key=lambda peak: peak.gflops)
    if setting is None or setting.device != machine_name():
        return None
    return measure_peak(PRESETS[setting.target], setting.threads)
