"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.logs import warn_of_skipped
from mobilenet_tvm.compile.cli.options import given, shape_options
from mobilenet_tvm.compile.cli.output import json_option, print_json
from mobilenet_tvm.targets.errors import UserError, WrongUseError

if TYPE_CHECKING:
    from mobilenet_tvm.compile.analysis.peak import Peak
    from mobilenet_tvm.compile.report.data import Setting
    from mobilenet_tvm.compile.report.json_files import Profile
    from mobilenet_tvm.targets.target import Target

_FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "--log",
    "log_path",
    type=_FILE,
    help="A tuning log; its trials are beside it.  [default: your own log of the target]",
)
@click.option("--target", help="Only its records.  [default: native, or all that --log has]")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Only layers of a name or an ONNX file, by number of calls; repeatable.",
)
@click.option(
    "--profile",
    "profile_paths",
    type=_FILE,
    multiple=True,
    help="Output of 'profile --json': calls, peak, times in the network; repeatable.",
)
@click.option("--peers", "peers_path", type=_FILE, help="Output of 'benchmarks/peers.py --json'.")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Only records with so many.  [default: the profile's, or the latest record's]",
)
@click.option(
    "--peak",
    "limits",
    type=(click.FloatRange(0, min_open=True), click.FloatRange(0, min_open=True)),
    metavar="GFLOPS GBYTES",
    help="The machine's limits.  [default: the profile's, or measured on the log's device]",
)
@click.option("-o", "--output", type=_FILE, default=Path("report.html"), show_default=True)
@shape_options
@json_option
def report(
    log_path: Path | None,
    target: str | None,
    models: tuple[str, ...],
    profile_paths: tuple[Path, ...],
    peers_path: Path | None,
    threads: int | None,
    limits: tuple[float, float] | None,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Write one HTML page from a tuning log, its trials, profiles and peers' latencies."""
    from mobilenet_tvm.compile.analysis.peak import Peak
    from mobilenet_tvm.compile.codegen.build import prepare_output
    from mobilenet_tvm.compile.logs.log import TuningLog, user_log
    from mobilenet_tvm.compile.models.source import ModelOptions
    from mobilenet_tvm.compile.report.data import choose_setting, gather
    from mobilenet_tvm.compile.report.json_files import read_peers, read_profile
    from mobilenet_tvm.compile.report.page import write
    from mobilenet_tvm.compile.tuning.layers import find_layers
    from mobilenet_tvm.compile.tuning.records import read_trials
    from mobilenet_tvm.targets.presets import get_target

    chosen = given(options)
    if chosen and not models:
        name = next(iter(chosen)).rstrip("s").replace("_", "-")
        raise WrongUseError(f"--{name} says which model is meant; give --model too")
    machine = get_target(target) if target else None
    path = log_path or user_log(machine or get_target("native"))
    must_exist = log_path is not None or path.exists()
    log = TuningLog.read(path, machine) if must_exist else TuningLog(path, machine)
    trials = read_trials(path, machine)
    warn_of_skipped([log, trials])
    profiles = [read_profile(file) for file in profile_paths]
    peers = read_peers(peers_path) if peers_path else ()
    setting = choose_setting([*log.records, *trials.records], profiles, threads)
    if setting is None and not peers:
        raise UserError(f"{path}: holds no record; run 'tune' first, or name a log with --log")
    networks = None
    if models:
        networks = find_layers(models, machine or _machine(setting), ModelOptions(**chosen))
    prepare_output(output)
    found = gather(
        setting,
        log.records,
        trials.records,
        networks=networks,
        profiles=profiles,
        peers=peers,
        names=[Path(name).stem for name in models or [profile.file for profile in profiles]],
        peak=Peak(*limits) if limits else _peak(setting, profiles),
    )
    if not (found.timed or peers):
        raise UserError(f"{path}: no record of these layers; run 'tune' with the same --model")
    write(found, output)
    sums = {
        "layers": len(found.layers),
        "trials": found.trials,
        "default_microseconds": round(found.default_total, 2),
        "tuned_microseconds": round(found.tuned_total, 2),
    }
    if as_json:
        print_json({"file": str(output), **sums})
        return
    times = (
        f", {1e-3 * found.default_total:.3f} ms by default, {1e-3 * found.tuned_total:.3f} ms tuned"
        if found.compared
        else ""
    )
    click.echo(f"wrote {output}: {len(found.layers)} layers, {found.trials} trials{times}")


def _machine(setting: Setting | None) -> Target:
    """Return the machine that a setting's layers were tuned for; this one has its own caches."""
    from mobilenet_tvm.targets.host import machine_name
    from mobilenet_tvm.targets.presets import PRESETS, native

    if setting is None or not setting.target:
        return native()
    if setting.device == machine_name() and setting.target == native().preset:
        return native()
    return PRESETS[setting.target]


def _peak(setting: Setting | None, profiles: list[Profile]) -> Peak | None:
    """Return the machine's limits, as the profiles have them, or measured if it is this one."""
    from mobilenet_tvm.compile.analysis.peak import measure_peak
    from mobilenet_tvm.targets.host import machine_name
    from mobilenet_tvm.targets.presets import PRESETS

    if profiles:
        return max((profile.peak for profile in profiles), key=lambda peak: peak.gflops)
    if setting is None or setting.device != machine_name():
        return None
    return measure_peak(PRESETS[setting.target], setting.threads)
