"""A run that never lies: nights that look finished and are not good end with code 3 and a sentence."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from loopback import Asked, Loopback, Said, completion
from rig import KEY, Ended, Rig, assert_each_row_once, results

LABELS = ["ชำระเงิน", "kỹ thuật", "其他"]
ANSWER = f"answer: {{labels: {json.dumps(LABELS, ensure_ascii=False)}, attempts: 0}}\n"
ROWS = 120


def run_json(rig: Rig, ended: Ended) -> dict:
    return json.loads((rig.folder / ended.run / "run.json").read_text(encoding="utf-8"))


def errors(ended: Ended) -> list[str]:
    return [line for line in ended.stderr.splitlines() if line.startswith("error: ")]


def write_gold(folder: Path, truths: Sequence[str | None], answers: Mapping[int, str]) -> None:
    """Rows whose `truth` column holds the truths, and the simulator's answers by row."""
    texts = [f"ตั๋ว {at} vé số {at} 第{at}张" for at in range(len(truths))]
    rows = [{"id": f"r{at}", "text": text, "truth": truths[at]} for at, text in enumerate(texts)]
    given = [{"text": text, "answer": answers.get(at, LABELS[0])} for at, text in enumerate(texts)]
    for name, records in (("rows.jsonl", rows), ("truth.jsonl", given)):
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def test_an_all_empty_night_is_no_success_unless_empty_is_declared_right(tmp_path: Path) -> None:
    """A zero-width space is HTTP 200, a valid text, and nothing."""
    with Rig(tmp_path, "--answer", "template:\u200b") as rig:
        rig.write_rows(ROWS)
        rig.write_job()
        night = rig.run("run", "job.yaml")
        rig.write_job("success: {empty: 100%}\n")
        declared = rig.run("run", "job.yaml")
        state = run_json(rig, night)

    assert (3, 0) == (night.code, declared.code), night.stderr + declared.stderr
    assert ["error: 120 of 120 rows are empty (100 %); success.empty allows 5 %"] == errors(night)
    assert_each_row_once(results(tmp_path / night.run), ROWS)
    assert ("finished", 3, 120) == (state["state"], state["exit_code"], state["counts"]["empty"])
    assert "120 of 120 rows are empty (100 %); success.empty allows 5 %" == state["reason"]


def test_one_sentence_to_everything_is_no_success(tmp_path: Path) -> None:
    """The error told as text, with another number in each row, in a language of our users."""
    with Rig(tmp_path, "--answer", "template:提示过长：{text}，超过上限") as rig:
        texts = [{"id": f"r{at}", "text": str(200_000 + at)} for at in range(ROWS)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
        rig.write_job()
        night = rig.run("run", "job.yaml")
        rig.write_job("success: {same: 100%}\n")
        declared = rig.run("run", "job.yaml")

    assert (3, 0) == (night.code, declared.code), night.stderr + declared.stderr
    (error,) = errors(night)
    assert error.startswith('error: 120 of 120 answers are the same: "提示过长：200')
    assert error.endswith('，超过上限"; success.same allows 50 %')


HONEST_AND_NOT = {
    "sorted in its own words": ("Tích cực", "Tiêu cực", "", 0, 'answers: "Tích cực" 80 %'),
    "an error to every fifth row": (
        "{text} ข้อความค่ะ", "ข้อความยาวเกินไป: {number} โทเคน", "", 3, "20 of 100 answers are the same error told as text",
    ),
    "an error in which a label stands": (
        "Prompt is too long", "short", "answer: {labels: [short, long]}\n", 3, "80 of 100 answers are the same",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HONEST_AND_NOT)
def test_an_honest_night_is_told_from_one_that_is_not(case: str, tmp_path: Path) -> None:
    """Four rows of five get the first answer; a provider of our own gives them."""
    often, seldom, more, code, words = HONEST_AND_NOT[case]
    rows = [{"text": f"{at} {chr(0x4E00 + 7 * at)}{chr(0x4E00 + 11 * at)}"} for at in range(100)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(asked: Asked) -> Said:
        number = int(asked.text.split()[0])
        return completion((seldom if number % 5 == 0 else often).format(text=asked.text, number=200_000 + 37 * number))

    with Loopback(answer) as provider:
        (tmp_path / "job.yaml").write_text(
            'input: rows.jsonl\nprompt: "{{ text }}"\nmodel: gpt-4.1-nano\n'
            f'provider: {{base_url: "{provider.base_url}", api_key: {KEY}}}\n{more}',
            encoding="utf-8",
        )
        night = batcher(tmp_path, "run", "job.yaml")

    assert code == night.code, night.stderr
    assert words in night.stderr
    assert (1 if code else 0) == len(errors(night))
    assert night.stderr.splitlines()[-1].startswith("hint: look at the answers: `batcher export runs/job/") == bool(
        code
    )


def test_a_label_that_suddenly_takes_everything_is_drift(tmp_path: Path) -> None:
    """Compared is the last good night; the bad one never becomes the measure."""
    job = ANSWER + "success: {label_drift: 0.2}\n"
    with Rig(tmp_path, "--answer", f"label:{','.join(LABELS)}", "--structured", "refused") as rig:
        rig.write_rows(ROWS)
        rig.write_job(job)
        first = rig.run("run", "job.yaml")
    with Rig(tmp_path, "--answer", f"template:{LABELS[1]}", "--structured", "refused") as rig:
        rig.write_job(job)
        stuck = rig.run("run", "job.yaml")
        state = run_json(rig, stuck)
        again = rig.run("run", "job.yaml")
    with Rig(tmp_path, "--answer", f"label:{','.join(LABELS)}", "--structured", "refused") as rig:
        rig.write_job(job)
        mended = rig.run("run", "job.yaml")

    codes = (first.code, stuck.code, again.code, mended.code)
    assert (0, 3, 3, 0) == codes, first.stderr + stuck.stderr + again.stderr + mended.stderr
    assert "label_drift: no earlier good run to compare with" in first.stderr
    assert f"labels: {LABELS[1]} 100 %, 2 labels never" in stuck.stderr
    for night in (stuck, again):
        (error,) = errors(night)
        assert error.startswith("error: labels drifted by 0.")
        assert f"from run {first.run.name} (" in error
        assert error.endswith("success.label_drift allows 0.2 (120 rows then, 120 now)")
    assert f"label_drift: 0.00 from run {first.run.name}" in mended.stderr
    assert {LABELS[0]: 0, LABELS[1]: ROWS, LABELS[2]: 0} == state["totals"]["labels"]
    assert state["totals"]["label_drift"]["run"] == first.run.name


@pytest.mark.parametrize(("wrong", "code"), [(1, 0), (2, 3)])
def test_gold_rows_decide(wrong: int, code: int, tmp_path: Path) -> None:
    """20 of 120 rows have a truth; 90 % of them must be right. Case does not count."""
    truths = ["其他" if at % 12 == 0 else "KỸ THUẬT" if at % 12 == 6 else None for at in range(ROWS)]
    answers = {at: truth.casefold() for at, truth in enumerate(truths) if truth}
    gold_rows = sorted(answers)
    answers |= dict.fromkeys(gold_rows[: wrong + 1], LABELS[0])
    write_gold(tmp_path, truths, answers)
    with Rig(tmp_path, "--answer", f"truth:{tmp_path / 'truth.jsonl'}", "--structured", "refused") as rig:
        rig.write_job(ANSWER + "success: {gold: {column: truth}}\n")
        night = rig.run("run", "job.yaml")
        state = run_json(rig, night)

    assert code == night.code, night.stderr
    assert {"rows": 20, "right": 19 - wrong}.items() <= state["totals"]["gold"].items()
    assert "truth" not in results(tmp_path / night.run).columns
    if code:
        (error,) = errors(night)
        assert error.startswith("error: 17 of 20 gold rows are right (85 %, 95 % interval 63.9 % to 94.7 %); ")
        assert "wrong: row 0 (key r0), row 6 (key r6), row 12 (key r12)" in error


def test_a_gold_column_without_a_truth_proves_nothing(tmp_path: Path) -> None:
    write_gold(tmp_path, [None, "", " "] * 10, {})
    with Rig(tmp_path, "--answer", f"truth:{tmp_path / 'truth.jsonl'}", "--structured", "refused") as rig:
        rig.write_job(ANSWER + "success: {gold: {column: truth}}\n")
        night = rig.run("run", "job.yaml")

    assert 3 == night.code, night.stderr
    assert "no row has a known truth" in errors(night)[0]


GOLD = "success: {gold: {column: truth}}\n"
WRONG_RULES = {
    "no such column": (
        ANSWER + GOLD.replace("truth", "trut"), "{{ text }}",
        "success.gold.column is trut, but the input has only: id, text, truth",
    ),
    "truth in the prompt": (ANSWER + GOLD, "{{ text }} {{ truth }}", "the prompt reads that column too"),
    "truth is no label": (
        GOLD + "answer: {labels: [a, b]}\n", "{{ text }}", 'row 1 has the truth "其他" in column truth',
    ),
    "drift without labels": ("success: {label_drift: 20%}\n", "{{ text }}", "success.label_drift compares labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_RULES)
def test_a_rule_that_cannot_be_measured_is_refused_before_anything_is_sent(case: str, tmp_path: Path) -> None:
    more, prompt, words = WRONG_RULES[case]
    write_gold(tmp_path, [None, "其他"], {})
    (tmp_path / "job.yaml").write_text(
        f"input: {{path: rows.jsonl, key: id}}\nprompt: {json.dumps(prompt)}\nmodel: gpt-4.1-nano\n"
        f'provider: {{base_url: "http://127.0.0.1:9/v1", api_key: {KEY}}}\n{more}',
        encoding="utf-8",
    )
    ended = batcher(tmp_path, "run", "job.yaml")

    assert (2, "") == (ended.code, ended.stdout), ended.stderr
    assert words in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_retry_judges_again_and_each_thing_is_said_once(tmp_path: Path) -> None:
    """Two of ten rows are invalid; asked again they are right, and the run turns into a success."""
    rows = [{"id": f"r{at}", "text": f"ข้อ {at} câu {at} 第{at}题"} for at in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Loopback(lambda asked: completion("???" if "2" in asked.text or "7" in asked.text else LABELS[2])) as provider:
        (tmp_path / "job.yaml").write_text(
            'input: {path: rows.jsonl, key: id}\nprompt: "{{ text }}"\nmodel: gpt-4.1-nano\n'
            f'provider: {{base_url: "{provider.base_url}", api_key: {KEY}}}\n{ANSWER}',
            encoding="utf-8",
        )
        night = batcher(tmp_path, "run", "job.yaml")
        provider.answer = lambda asked: completion(LABELS[0])
        retried = batcher(tmp_path, "retry", night.stdout.strip())

    assert (3, 0) == (night.code, retried.code), night.stderr + retried.stderr
    assert ["error: 2 of 10 rows are invalid (20 %); success.invalid allows 5 %"] == errors(night)
    assert 1 == night.stderr.count("2 of 10 rows")
    assert "warning:" not in night.stderr
    assert night.stderr.splitlines()[-1].startswith("hint: `batcher retry ")
    assert [] == errors(retried)
    assert f"labels: {LABELS[2]} 80 %, {LABELS[0]} 20 %, 1 label never" in retried.stderr


def batcher(folder: Path, *arguments: str) -> Ended:
    """The program, where no simulator is needed."""
    ended = subprocess.run(
        [sys.executable, "-m", "batcher", *arguments],
        cwd=folder, check=False, capture_output=True, text=True, encoding="utf-8", timeout=60,
    )  # fmt: skip
    return Ended(ended.returncode, ended.stdout, ended.stderr)
