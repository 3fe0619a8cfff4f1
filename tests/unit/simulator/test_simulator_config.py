"""What people write becomes a config, or one sentence that names the field."""

from decimal import Decimal
from pathlib import Path

import pytest

from batcher.errors import JobError
from batcher.simulator.chance import Latency
from batcher.simulator.config import SimulatorConfig, load_config
from batcher.simulator.faults import FaultRule, Outage
from batcher.simulator.limits import Limits

EXAMPLE = Path(__file__).parents[3] / "jobs" / "simulator" / "faults.yaml"


def test_the_example_file_is_read_as_it_is_meant():
    config = load_config(EXAMPLE)
    assert 7 == config.seed
    assert Latency("lognormal", 0.2, 0.9) == config.latency
    assert 0.002 == config.token_latency_s
    assert Limits(600, 60_000, "bucket", 10.0, 200) == config.limits
    assert 0.1 == pytest.approx(sum(config.faults.values()))
    assert (FaultRule("POISON", "500"),) == config.rules
    assert (Outage(120.0, 30.0, "503"),) == config.outages
    assert ("billing", "technical", "other") == config.answer.labels
    assert config.price is not None
    assert Decimal("0.025") == config.price.cached_input


def test_nothing_written_is_the_defaults(tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n", encoding="utf-8")
    assert SimulatorConfig() == load_config(empty) == load_config(None) == SimulatorConfig.from_mapping({})


def test_a_day_and_slots_are_read():
    written = {"limits": {"requests_per_day": 200, "day": "30s", "slots": 4}}
    assert Limits(requests_per_day=200, day_s=30.0, slots=4) == SimulatorConfig.from_mapping(written).limits


def test_overrides_win_over_the_file():
    assert 9 == load_config(EXAMPLE, {"seed": 9}).seed


def test_a_truth_file_stands_beside_its_config(tmp_path):
    (tmp_path / "truth.jsonl").write_text('{"text": "ก", "answer": "ข"}\n\n', encoding="utf-8")
    (tmp_path / "sim.yaml").write_text("answer: truth:truth.jsonl\n", encoding="utf-8")
    assert {"ก": "ข"} == load_config(tmp_path / "sim.yaml").answer.truth


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"latancy": "1s"}, "simulator.latancy is not known; did you mean latency?"),
        ({"latency": "soon"}, "simulator.latency is 'soon'; write a duration"),
        ({"latency": "normal:1s,2s"}, "lognormal:200ms,900ms"),
        ({"latency": "uniform:2s,1s"}, "the second not below it"),
        ({"latency": "lognormal:0ms,1s"}, "must be above 0"),
        ({"latency": -1}, "simulator.latency is -1"),
        ({"latency": float("nan")}, "simulator.latency"),
        ({"latency": True}, "simulator.latency is True"),
        ({"limits": 5}, "simulator.limits is 5; write a mapping"),
        ({"limits": {"request_per_minute": 5}}, "did you mean requests_per_minute?"),
        ({"limits": {"requests_per_minute": 0}}, "write a whole number from 1 up"),
        ({"limits": {"tokens_per_minute": 1.5}}, "write a whole number"),
        ({"limits": {"requests_per_day": 0}}, "write a whole number from 1 up"),
        ({"limits": {"slots": 0}}, "write a whole number from 1 up"),
        ({"limits": {"day": 0}}, "simulator.limits.day is 0; write a duration above 0"),
        ({"limits": {"window": "rolling"}}, "simulator.limits.window is 'rolling'"),
        ({"faults": {"501": 0.1}}, "'501', which is not known; did you mean"),
        ({"faults": {"resett": 0.1}}, "did you mean reset?"),
        ({"faults": {"500": 1.5}}, "a share is at most 1"),
        ({"faults": {"500": "-5%"}}, "write a share"),
        ({"faults": {"500": 0.6, "429": 0.6}}, "add up to 120.00%"),
        ({"faults": ["500"]}, "write a mapping of faults to shares"),
        ({"faults_by": "hash"}, "simulator.faults_by is 'hash'"),
        ({"rules": [{"contains": "x"}]}, "simulator.rules[0] has no fault"),
        ({"rules": {"contains": "x"}}, "write a list"),
        ({"outages": [{"start": "1s", "duration": "1s", "fault": "dark"}]}, "the fault 'dark'"),
        ({"answer": "ecko"}, "did you mean echo?"),
        ({"answer": "echo:x"}, "echo takes no argument"),
        ({"answer": "label:"}, "has no labels"),
        ({"answer": "truth"}, "has no truth"),
        ({"answer": "truth:nowhere.jsonl"}, "cannot read nowhere.jsonl: No such file"),
        ({"answer": "lorem:many"}, "write a whole number"),
        ({"answer": {"mode": "label", "label": ["a"]}}, "did you mean labels?"),
        ({"structured": "maybe"}, "simulator.structured is 'maybe'"),
        ({"usage": "perhaps"}, "write true or false"),
        ({"price": {"input": 1}}, "simulator.price has no output"),
        ({"price": {"input": -1, "output": 1}}, "write US dollars"),
        ({"price": {"input": "NaN", "output": 1}}, "write US dollars"),
        ({"models": 5}, "write a list of texts"),
        ({"seed": True}, "write a whole number"),
        ({3: "x"}, "simulator.3 is not known"),
        ([], "simulator is []; write a mapping"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_that_names_the_field(mapping, words):
    with pytest.raises(JobError) as refused:
        SimulatorConfig.from_mapping(mapping)
    assert words in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latency: [1s\n", ":2 is not YAML"),
        ("- a\n- b\n", "holds no mapping"),
        ("seed: x\n", "simulator.seed is 'x'"),
        ("a: 1\na: 2\n", "not YAML"),
        ("seed: !!python/object:os.system 1\n", "sim.yaml"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, words):
    path = tmp_path / "sim.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(JobError) as refused:
        load_config(path)
    assert words in refused.value.message
    assert "sim.yaml" in refused.value.message
    assert "\n" not in refused.value.message


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(JobError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "sim.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="not UTF-8"):
        load_config(tmp_path / "sim.yaml")


def test_a_broken_truth_line_is_named(tmp_path):
    (tmp_path / "truth.jsonl").write_text('{"text": "a", "answer": "b"}\n{"text": 1}\n', encoding="utf-8")
    with pytest.raises(JobError, match=r"truth\.jsonl:2"):
        SimulatorConfig.from_mapping({"answer": "truth:truth.jsonl"}, base=tmp_path)


def test_faults_given_in_code_are_checked_too():
    with pytest.raises(JobError, match="did you mean reset"):
        SimulatorConfig(faults={"rest": 0.1})


def test_keys_and_paths_do_not_change_at_run_time():
    """Over HTTP anyone on the machine may ask: no new keys, no files read."""
    for name, value in {"keys": ["x"], "answer": "truth:/etc/passwd", "seed": 1, "models": ["x"]}.items():
        with pytest.raises(JobError, match="does not change at run time"):
            SimulatorConfig().changed({name: value})


def test_a_config_does_not_show_its_keys():
    assert "sk-secret" not in repr(SimulatorConfig(keys=("sk-secret",)))
