"""Words from outside are words: no terminal obeys them, no log line is forged by them, no variable is put into them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import batchflux
from batchflux.app.plan import Plan, make_plan
from batchflux.sandbox import FaultRule, FaultScript, Latency, SandboxConfig, SandboxThread
from tests.app.service import quick_service, write_spec
from tests.canary import is_in
from tests.cli.conftest import Command
from tests.cli.driver import COMMAND, on_terminal, write_job

# Sets the window's title, clears the screen, turns the direction of writing, rings, and begins a sequence in one byte.
STEERING = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2066\x9b31m\x08\x85"
FORBIDDEN = re.compile("\x1b\\]|\x1b\\[2J|[\x07\x08\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.security(19)
def test_a_run_on_a_terminal_shows_nothing_that_steers_it(tmp_path: Path) -> None:
    """Prompts, ids, the job's name, tables' columns and the service's words, beside a bar, at each of the verbs."""
    rules = (FaultRule(on="submit", do="fail", code=1200, error=f"flagged {STEERING}"),)
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=rules))) as service:
        job = write_job(
            tmp_path,
            name="kites\u202e\u2066",
            prompts={"path": "p.jsonl", "columns": {"prompt": "prompt", "id": "id"}},
            grid={"seed": [1]},
            api={"base_url": service.base_url},
        )
        (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": f"a {STEERING}", "id": f"i{STEERING}", STEERING: 1}))
        for arguments in (("run", job), ("status", "out", "--failed"), ("plan", job)):
            with on_terminal(*map(str, arguments), cwd=tmp_path, command=COMMAND) as terminal:
                shown = terminal.wait().err
            assert shown
            assert FORBIDDEN.search(shown) is None, repr(shown)


@pytest.mark.security(19)
def test_messages_of_faults_show_nothing_that_steers(command: Command, tmp_path: Path) -> None:
    """Keys, values and file names of a wrong spec, cells of a wrong table, and the words of a command."""
    escaped = json.dumps(STEERING)
    folder = tmp_path / f"x{STEERING.replace('/', '')}"
    folder.mkdir()
    wrong = [
        f"{escaped}: 1\n",
        f"prompts: {{path: {escaped}}}\n",
        f"prompts: {{path: p.csv, columns: {{prompt: {escaped}}}}}\n",
        f"prompts: {{path: p.csv}}\ngrid: {{seed: [{escaped}]}}\n",
        f"prompts: {{path: p.csv}}\nparams: {{aspect_ratio: {escaped}}}\n",
        f"prompts: {{path: p.csv}}\nmodel: {escaped}\n",
        f"prompts: {{path: p.csv}}\napi: {{base_url: {escaped}, key_env: {escaped}, ca_file: {escaped}}}\n",
        f"extends: {escaped}\n",
        f"a: [\n{STEERING}",
    ]
    (folder / "p.csv").write_text(f"prompt\n\n{STEERING},{STEERING}\n")
    said = []
    for text in wrong:
        (folder / "job.yaml").write_text(text)
        said.append(command("plan", folder / "job.yaml", cwd=tmp_path))
    said.append(command("plan", f"gone{STEERING}", cwd=tmp_path))
    said.append(command("plan", folder / "job.yaml", "--set", STEERING, cwd=tmp_path))
    said.append(command("run", folder / "job.yaml", f"--{STEERING}", cwd=tmp_path))
    assert [done.status for done in said] == [2] * len(said)
    for done in said:
        assert FORBIDDEN.search(done.out + done.err) is None, repr(done.err)


@pytest.mark.security(23)
def test_a_variable_in_a_prompt_is_its_name(tmp_path: Path) -> None:
    """${WAVESPEED_API_KEY} in a spec, a table, a template or a parameter is sent and kept as it is written."""
    words = "${WAVESPEED_API_KEY} $WAVESPEED_API_KEY %WAVESPEED_API_KEY% `env` $(env) {{0.__class__}} ~"
    template = words.replace("{", "{{").replace("}", "}}") + " {prompt} {style}"
    with quick_service() as service:
        spec = write_spec(
            tmp_path,
            service,
            f"prompt,note\n{words},{words}\n",
            prompts={"template": template},
            grid={"style": [words]},
            name="variables",
        )
        result = batchflux.run(batchflux.load_job(spec))
        sent = [made.parsed_inputs()["prompt"] for made in service.behaviour.everything()]
    assert sent == [f"{words} {words} {words}"]
    assert batchflux.read_manifest(result.run_dir)["note"][0] == words
    assert not is_in((tmp_path / "out" / "job.yaml").read_bytes())


@pytest.mark.security(29)
@pytest.mark.security(30)
def test_no_line_of_the_log_is_forged(command: Command, tmp_path: Path) -> None:
    """A line break in a prompt, an id or the service's words begins no line; prompts and images' URLs stay out."""
    forged = '\n{"at":"2026-01-01T00:00:00+00:00","event":"forged"}\r\n\u2028{"event":"forged"}\x85'
    rules = (FaultRule(on="submit", do="fail", code=1200, error=f"no{forged}", prompt="flag"),)
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=rules))) as service:
        job = write_job(
            tmp_path,
            prompts={"path": "p.jsonl", "columns": {"prompt": "prompt", "id": "id"}},
            grid={"seed": [1]},
            api={"base_url": service.base_url},
        )
        rows = [{"prompt": f"{word} zeppelin{forged}", "id": f"{word}{forged}"} for word in ("flag", "fine")]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert command("run", job, cwd=tmp_path, env={"BATCHFLUX_LOG": "debug"}).status == 1
    log = (tmp_path / "out" / "run.log").read_text(encoding="utf-8")
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[0] == "start"
    assert "cell" in events
    assert "forged" not in events
    assert "zeppelin" not in log
    assert ".png" not in log


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.tags.add(tag)


@pytest.mark.security(21)
def test_a_plan_in_a_notebook_makes_no_elements_of_words(tmp_path: Path) -> None:
    """Names, models and warnings are shown as text, whatever they hold."""
    evil = "<img src=x onerror=alert(1)>&\"'</table><script>"
    spec = write_spec(tmp_path, None, "prompt\na\n", run={"price": 1}, prompts={"template": evil.replace("/", "")})
    plan: Plan = make_plan(batchflux.load_job(spec, overrides={"name": evil.replace("/", "")}))
    elements = _Elements()
    elements.feed(plan._repr_html_())
    assert elements.tags <= {"table", "caption", "tr", "th", "td", "p"}
    assert "onerror" in plan._repr_html_()
