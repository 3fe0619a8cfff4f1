"""Where each microsecond of a row goes, measured by taking out one part after the other; see `profiling.py`.

python benchmarks/profile_row.py             # 20,000 rows, 5 rounds
python benchmarks/profile_row.py --rows 2000 --runs 1
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
from job import EVERYTHING, Features, job_file
from processes import (
    HERE,
    BenchmarkError,
    Cores,
    Server,
    Used,
    choose_cores,
    end_children_on_sigterm,
    run_measured,
    serving,
)
from profiling import STUBBED, VARIANTS, WHOLE, Profile, Sample, Variant, profile_lines, profile_of
from workloads import NO_LATENCY

_FEATURES = {"budget": Features(has_budget=False), "rates": Features(has_rates=False)}


def measure_profile(*, rows: int, runs: int, server: Server, cores: Cores, directory: Path) -> Profile:
    """Run batcher whole and with ever fewer of its parts, in turn, `runs` times.

    Raises:
        BenchmarkError: A run failed, or a stub was not used because the code has changed.
    """
    bench = _Bench(rows, server, cores, directory)
    samples: dict[Variant, list[Sample]] = {variant: [] for variant in VARIANTS}
    plain_s: list[float] = []
    for number in range(runs):
        plain_s.append(bench.used(WHOLE, [sys.executable, "-m", "batcher"]).cpu_s)
        for variant, taken in samples.items():
            sys.stderr.write(f"profile, round {number + 1} of {runs}: {variant.described}\n")
            taken.append(bench.sample(variant))
    return profile_of(samples, plain_s)


@dataclass(frozen=True, slots=True)
class _Bench:
    rows: int
    server: Server
    cores: Cores
    directory: Path

    def used(self, variant: Variant, program: list[str]) -> Used:
        """One run of a program that takes batcher's command line."""
        self.server.set_up(**NO_LATENCY.setup)
        url = f"http://127.0.0.1:{self.server.port}/v1"
        features = EVERYTHING if variant.without is None else _FEATURES[variant.without]
        job = job_file(self.directory, NO_LATENCY, self.rows, url=url, features=features)
        command = [*program, "run", job.name, "--fresh"]
        used = run_measured(command, core=self.cores.client, directory=self.directory)
        answers = self.server.seen()["answers"]
        if "http" not in variant.stubbed and answers != self.rows:
            raise BenchmarkError(f"profile, {variant.described}: {self.rows} rows, but the server answered {answers}")
        return used

    def sample(self, variant: Variant) -> Sample:
        """One run with stubs."""
        report = self.directory / "sample.json"
        program = [sys.executable, str(HERE / "stubs.py"), str(report), "--rows", str(self.rows)]
        program += [word for name in STUBBED if name in variant.stubbed for word in ("--stub", name)]
        used = self.used(variant, [*program, "--"])
        sample = msgspec.json.decode(report.read_bytes(), type=Sample)
        report.unlink()
        if variant.stubbed:
            return sample
        return msgspec.structs.replace(sample, end_s=used.cpu_s - sample.start_s - sample.rows_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    cores = choose_cores()
    end_children_on_sigterm()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name, serving(cores.server) as server:
            profile = measure_profile(
                rows=options.rows, runs=options.runs, server=server, cores=cores, directory=Path(name)
            )
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print(profile_lines(profile))
    return 0


if __name__ == "__main__":
    sys.exit(main())
