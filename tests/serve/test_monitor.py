"""The pages of a real daemon: every figure is the daemon's own, and tools can read them."""

import json
import re
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
import yaml
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from stream_lstm.errors import EndpointError
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.schema import ServeConfig
from stream_lstm.serve import monitor
from stream_lstm.serve.monitor import Monitor

from ..store.stores import series
from .live import ANY_PORT, Clock, Live, feed_of, get

PREFIX = "stream_lstm_"

DASHBOARD = json.loads((files("stream_lstm") / "data" / "grafana.json").read_text("utf-8"))
DAEMON = 'instance=~"$instance"'
QUERIES = [
    (t["expr"], t["legendFormat"]) for p in DASHBOARD["panels"] for t in p.get("targets", ())
]

MONITORING = files("stream_lstm") / "data" / "monitoring"

PROMTOOL = shutil.which("promtool")

UNITS = ("seconds", "bytes", "nats")

OTHER_UNITS = (
    "milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "ms", "us", "ns",
    "kilobytes", "megabytes", "gigabytes", "kb", "mb", "gb", "bits", "percent",
)  # fmt: skip


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A daemon that learned from outside's labels and was sent one mistake of every kind."""
    path = tmp_path_factory.mktemp("store") / "s.db"
    more = {"learn": True, "labels": "external", "max_streams": 2, "publish": ANY_PORT}
    with Live(store=path, pages=True, **more) as one:
        values = series(240)
        values[150] = np.nan
        one.send(b"tick/a", b"{}")
        one.send(b"tick/a/", b"{")
        one.send(b"tick/a/", b'{"v": 9, "session": "s1", "values": [1.0]}')
        one.send(b"tick/a/", b"x" * (17 * 2**20))
        one.send(b"tick/a/", b"", b"")
        one.ticks(values[:200])
        one.ticks(values[:20])
        for n in (12, 22, 32):
            one.label(n, int(n % 4 == 0))
        one.label(12, 1)
        one.label(22, 1)
        one.label(13, 1)
        one.label(42, 7)
        one.label(12, 1, "nobody")
        one.ticks(values[205:], 206)
        one.ticks(values[:30], stream="b")
        one.ticks(values[:30], stream="one-too-many")
        one.finish()
        yield one


@pytest.fixture(scope="module")
def samples(one):
    return one.samples()


def test_every_count_is_the_daemons(one, samples):
    session, feed = one.daemon.session, one.daemon.subscriber.counters
    streams = session.streams.values()

    def total(name):
        return sum(getattr(stream.counters, name) for stream in streams)

    assert samples[PREFIX + "streams",] == samples[PREFIX + "warm_streams",] == 2
    assert samples[PREFIX + "elements_total",] == sum(s.n for s in streams) > 240
    assert samples[PREFIX + "predictions_total",] == total("predictions") > 20
    assert samples[PREFIX + "labels_total",] == sum(s.scores.labels for s in streams) == 3
    assert samples[PREFIX + "updates_total",] == total("updates") == 3
    assert samples[PREFIX + "gaps_total",] == 1
    assert samples[PREFIX + "compilations_after_ready_total",] == one.daemon.compilations
    assert samples[PREFIX + "missed_ticks_total",] == 5
    assert samples[PREFIX + "feed_messages_total",] == feed.messages
    losses = [sum(s.scores.losses[k] for s in streams) for k in range(3)]
    for k, name in enumerate(("model", "base_rate", "last_label")):
        assert samples[PREFIX + "log_loss_nats_total", name] == losses[k] > 0
    right = sum(s.scores.ways[0].correct for s in streams)
    assert samples[PREFIX + "correct_predictions_total",] == right


def test_every_refusal_is_counted_by_its_reason(one, samples):
    def refused(what):
        return {
            key[1]: v for key, v in samples.items() if key[0] == f"{PREFIX}refused_{what}_total"
        }

    found = refused("messages")
    assert found.pop("recovery") == found.pop("columns") == found.pop("not_owner") == 0
    assert found.pop("session") == 0
    assert found.pop("too_many_streams") == 2, "its ticks and its end"
    assert found == dict.fromkeys(("frames", "topic", "size", "version", "payload"), 1)
    assert sum(refused("messages").values()) == one.daemon.subscriber.counters.refused
    assert refused("ticks") == {
        "not_finite": 1,
        "repeated": 20,
        "too_late": 0,
        "old_time": 0,
    }
    labels = refused("labels")
    assert sum(labels.values()) == 5
    assert labels["unknown"] == 2
    assert labels["bad"] == 1
    assert labels["unexpected"] == 0
    assert refused("updates").keys() == {"not_finite", "update_too_large", "weights_too_large"}
    assert len(refused("peers")) == 12


def test_each_stream_has_its_figures(one, samples):
    for name, stream in one.daemon.session.streams.items():
        assert samples[PREFIX + "stream_elements_total", name] == stream.n
        assert samples[PREFIX + "stream_labels_total", name] == stream.scores.labels
    evidence = one.daemon.session.streams["a"].scores.evidence.log_e()
    against = ("coin", "base_rate", "last_label")
    assert [samples[PREFIX + "stream_evidence_nats", a, "a"] for a in against] == list(evidence)


def test_stages_are_timed(samples):
    predictions = samples[PREFIX + "predictions_total",]
    for name in ("tick_to_publish", "queue_age"):
        assert samples[f"{PREFIX}{name}_seconds_count",] == predictions
    assert 0 < samples[PREFIX + "tick_to_publish_seconds_sum",] < 60
    assert samples[PREFIX + "update_seconds_count",] == samples[PREFIX + "updates_total",]


# ---- the page -----------------------------------------------------------------------------


def test_the_page_parses_as_prometheus_text_and_as_openmetrics(one):
    _, kind, _ = one.page("/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    accept = "application/openmetrics-text; version=1.0.0"
    _, kind, body = one.page("/metrics", Accept=accept)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    named = {family.name for family in openmetrics_families(body)}
    assert {PREFIX + "elements", PREFIX + "ready", PREFIX + "update_seconds"} <= named


def test_no_family_and_no_series_is_there_twice(one):
    families = one.families()
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    series_ = [(s.name, *sorted(s.labels.items())) for f in families for s in f.samples]
    assert len(series_) == len(set(series_))


def naming_faults(family):
    """What `promtool check metrics` would find wrong with a family, in words."""
    out, name = [], family.name
    words = name.split("_")
    if not family.documentation.strip():
        out.append("no help")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or "__" in name:
        out.append("not in snake case")
    if any(word in ("counter", "gauge", "histogram", "summary", "metric") for word in words):
        out.append("its type in its name")
    if any(word in OTHER_UNITS for word in words):
        out.append("not a base unit")
    units = [word for word in words if word in UNITS]
    if units and words[-1] != units[-1]:
        out.append("its unit does not come last")
    sampled = {sample.name for sample in family.samples}
    if family.type == "counter" and not all(s.endswith("_total") for s in sampled):
        out.append("a counter without _total")
    if family.type != "counter" and name.endswith("_total"):
        out.append("_total and no counter")
    if family.type != "histogram" and name.endswith(("_count", "_sum", "_bucket")):
        out.append("a suffix of histograms")
    labels = {label for sample in family.samples for label in sample.labels}
    if not all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in labels):
        out.append("a label not in snake case")
    if family.type != "histogram" and labels & {"le", "quantile"}:
        out.append("a reserved label")
    return out


def test_names_follow_the_rules_of_prometheus(one):
    families = one.families()
    assert len(families) > 50
    assert {f.name: faults for f in families if (faults := naming_faults(f))} == {}
    assert all(f.name.startswith((PREFIX, "process_")) for f in families)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("elements", "counter"),
        ("elements_total", "gauge"),
        ("latency_ms", "gauge"),
        ("seconds_of_delay", "gauge"),
        ("loss_gauge", "gauge"),
        ("camelCase", "gauge"),
        ("ticks_count", "gauge"),
    ],
)
def test_the_rules_see_a_name_that_does_not(name, kind):
    from prometheus_client.core import Metric

    family = Metric(name, "Words.", kind)
    family.add_sample(name, {}, 1)
    assert len(naming_faults(family)) == 1


def test_histograms_have_buckets_that_grow_to_all_a_sum_and_a_count(one):
    for family in (f for f in one.families() if f.type == "histogram"):
        suffixes = {sample.name.removeprefix(family.name) for sample in family.samples}
        assert suffixes == {"_bucket", "_sum", "_count"}
        for call in {s.labels.get("call") for s in family.samples}:
            mine = [s for s in family.samples if s.labels.get("call") == call]
            buckets = [s for s in mine if s.name.endswith("_bucket")]
            totals = [s.value for s in buckets]
            (count,) = (s.value for s in mine if s.name.endswith("_count"))
            assert totals == sorted(totals)
            assert totals[-1] == count
            assert buckets[-1].labels["le"] == "+Inf"


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_accepts_the_page_and_the_dashboards_queries(one, tmp_path):
    def said(*arguments, page=None):
        done = subprocess.run(
            [PROMTOOL, "check", *arguments],
            input=page,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert said("metrics", page=one.page("/metrics")[2]) == (0, "")
    queries = [query for query, _ in QUERIES]
    chosen = {"$__rate_interval": "5m", "$window": "1h", "$instance": ".*"}
    for variable, value in chosen.items():
        queries = [query.replace(variable, value) for query in queries]
    rules = [{"record": f"query:{k}", "expr": query} for k, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert said("rules", str(file)) == (0, "")
    for name in ("alerts.yml", "prometheus.yml"):
        (tmp_path / name).write_text((MONITORING / name).read_text("utf-8"))
    assert said("config", str(tmp_path / "prometheus.yml")) == (0, "")


# ---- alerts, the disk ---------------------------------------------------------------------


def test_every_alert_is_about_metrics_and_labels_that_exist(one):
    known = {"up": {"job"}}
    values = {}
    for family in one.families():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
            values.setdefault(sample.name, set()).update(sample.labels.values())
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) > 5
    for rule in group["rules"]:
        (name,) = re.findall(r"\bup\b|\bstream_lstm_\w+", rule["expr"])
        assert name in known
        for label, value in re.findall(r'(\w+)="([^"]*)"', rule["expr"]):
            assert label in known[name]
            assert name == "up" or value in values[name]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}


def test_the_size_of_the_store_and_the_free_disk_are_served(one):
    path = one.store.path
    size = sum(f.stat().st_size for f in (path, path.with_name(f"{path.name}-wal")) if f.exists())
    samples = one.samples()
    assert samples[PREFIX + "store_bytes",] == size > 4096
    free = shutil.disk_usage(path.parent).free
    assert abs(samples[PREFIX + "disk_free_bytes",] - free) < 0.5 * free


# ---- the dashboard ------------------------------------------------------------------------


def test_every_metric_and_label_of_the_dashboard_exists(one):
    known = {}
    for family in one.families():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    asked_for = set()
    for query, legend in QUERIES:
        names = set(re.findall(r"\b(?:stream_lstm|process)_\w+", query))
        asked_for |= names
        assert names <= known.keys(), query
        labels = {"instance", *(label for name in names for label in known[name])}
        grouped = ",".join(re.findall(r"by \(([^)]*)\)", query)).replace(" ", "").split(",")
        matched = re.findall(r"(\w+)=~?\"", query)
        shown = re.findall(r"\{\{(\w+)\}\}", legend)
        assert {*grouped, *matched, *shown} - {""} <= labels, query
        assert query.count("(") == query.count(")")
        assert DAEMON in query or not names
    for what in ("messages", "ticks", "labels", "updates", "peers"):
        assert f"{PREFIX}refused_{what}_total" in asked_for


def test_the_dashboard_is_laid_out_without_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboard_has_the_fields_that_grafana_requires():
    made = DASHBOARD
    assert made["title"]
    assert made["uid"]
    assert isinstance(made["schemaVersion"], int)
    variables = {variable["name"]: variable for variable in made["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(made["panels"])))
    assert {name for name in used if not name.startswith("__")} == variables.keys()
    for panel in made["panels"]:
        assert panel["title"]
        assert panel["type"] in {"row", "timeseries", "stat"}
        assert panel["gridPos"].keys() == {"h", "w", "x", "y"}
        if panel["type"] != "row":
            sources = [panel["datasource"], *(t["datasource"] for t in panel["targets"])]
            assert all(s == {"type": "prometheus", "uid": "${datasource}"} for s in sources)
            letters = [target["refId"] for target in panel["targets"]]
            assert len(set(letters)) == len(letters) > 0


# ---- health -------------------------------------------------------------------------------


def test_the_daemon_is_live_while_its_loop_turns(live, monkeypatch):
    monkeypatch.setattr(monitor, "TURN_S", 0.0)
    clock, seen = Clock(100.0), []
    one = live(pages=True, health_clock=clock)

    def hang():
        seen.append(one.health("/livez"))
        clock.now += 31.0
        seen.append(one.health("/livez"))
        seen.append(one.health("/readyz"))

    one.each_turn(hang, int, lambda: seen.append(one.health("/livez")), last=one.stop.set)
    one.daemon.run()
    one.monitor.health.ended()
    clock.now += 31.0
    seen.append(one.health("/livez"))
    assert [status for status, _ in seen] == [200, 503, 503, 200, 200]
    assert seen[1][1]["reasons"] == ["the loop has not turned for 31.0 s"]
    assert "the loop has not turned for 31.0 s" in seen[2][1]["reasons"]


@pytest.mark.slow
def test_the_daemon_is_ready_once_a_stream_is_warm(live, tmp_path):
    one = live(pages=True, store=tmp_path / "s.db", publish=ANY_PORT)
    seen = [one.health("/readyz")]
    for first, count in ((1, 11), (12, 1)):
        one.ticks(series(count), first)
        one.stop.requested = False
        one.until(lambda n=first + count - 1: one.elements() == n)
        one.stop.requested = False
        seen.append(one.health("/readyz"))
    one.stop.set()
    seen.append(one.health("/readyz"))
    assert [status for status, _ in seen] == [503, 503, 200, 503]
    assert [body["reasons"] for _, body in seen] == [
        ["no stream is warm yet", "no message has come from the feed yet"],
        ["no stream is warm yet"],
        [],
        ["it is stopping"],
    ]
    assert seen[2][1]["checks"] == dict.fromkeys(
        ("started", "loop", "warm", "feed", "streams", "store"), True
    )


@pytest.mark.parametrize("table", [False, True])
def test_every_configured_stream_must_be_warm(live, table):
    names = ["a", *(f"s{k}" for k in range(7))]
    one = live(pages=True, streams=names, table=table)
    one.ticks(series(20))
    for name in names[1:]:
        one.end(name, 1)
    one.finish()
    status, body = one.health("/readyz")
    assert status == 503
    assert body["reasons"] == [
        "not warm yet: s0, s1, s2, s3, s4 and 2 more",
        "every stream has ended",
    ]


def test_a_silent_feed_is_not_ready(live):
    clock = Clock()
    one = live(pages=True, stale_after=5.0, clock=clock)
    one.ticks(series(20))
    one.until(lambda: one.elements() == 20)
    clock.now += 6.0
    one.daemon.staleness.check()
    one.stop.requested = False
    status, body = one.health("/readyz")
    assert status == 503
    assert body["reasons"][0] == "the feed has been silent for 6.0 s"
    assert body["checks"]["feed"] is False


@pytest.mark.parametrize("policy", ["all", "any"])
def test_a_dead_stream_beside_a_live_one_has_its_reason(live, policy):
    clock = Clock()
    one = live(pages=True, clock=clock, ready=policy)

    def both(first):
        one.ticks(series(1), first, "a")
        if first <= 30:
            one.ticks(series(1), first, "b")
        clock.now += 2.0

    def read(n):
        one.until(lambda: (one.elements("a"), one.elements("b")) == (n, min(n, 30)))
        one.daemon.statuses.check()
        one.stop.requested = False

    for first in range(1, 36):
        both(first)
        read(first)
    status, body = one.health("/readyz")
    reason = "the last tick came 10 seconds ago; usually ticks come every 2 seconds"
    reason += "; no heartbeat comes"
    assert body["streams"]["b"] == {
        "status": "late", "reason": reason, "age_s": 10.0, "usual_interval_s": 2.0,
    }  # fmt: skip
    assert body["streams"]["a"]["status"] == "live"
    assert (body["policy"], list(body["streams"])) == (policy, ["b", "a"])
    if policy == "any":
        assert (status, body["reasons"]) == (200, [])
    else:
        assert (status, body["reasons"]) == (503, [f"b: {reason}"])
    samples = one.samples()
    assert [samples[PREFIX + "streams_by_status", s] for s in ("live", "late")] == [1, 1]
    assert samples[PREFIX + "stream_age_seconds", "b"] == 10
    assert samples[PREFIX + "stream_usual_interval_seconds", "b"] == 2
    one.send(*encode_heartbeat(Heartbeat("b", 31, "s1")))
    one.until(lambda: "b" in one.daemon.subscriber.intake.heard)
    one.daemon.statuses.check()
    one.stop.requested = False
    status, body = one.health("/readyz")
    assert (status, body["streams"]["b"]["status"]) == (200, "late")
    assert body["streams"]["b"]["reason"].endswith("its publisher sends heartbeats")
    one.end("b", 31)
    one.until(lambda: "b" in one.daemon._ended)
    one.stop.requested = False
    status, body = one.health("/readyz")
    assert (status, body["streams"]["b"]["status"]) == (200, "ended")
    one.end("a", 36)
    one.until(one.daemon.all_ended)
    one.stop.requested = False
    status, body = one.health("/readyz")
    assert (status, body["reasons"]) == (503, ["every stream has ended"])


def test_a_feed_that_dies_beside_another_is_named(live):
    clock, other = Clock(), feed_of("s2")
    one = live(pages=True, clock=clock, connect=[other.endpoint], streams=["a", "b"])
    other.wait_for_subscribers(1, 30)
    for n in range(1, 41):
        if n == 21:
            other.close()
        one.ticks(series(1), n)
        if n <= 20:
            tick = encode_ticks("b", n * 10**9, series(1)[0], run_id="s2", seq=n)
            other._socket.send_multipart(tick)
        clock.now += 2.0
        one.until(lambda n=n: (one.elements("a"), one.elements("b")) == (n, min(n, 20)))
        one.daemon.statuses.check()
        one.stop.requested = False
        if n == 20:
            assert one.health("/readyz")[0] == 200
    status, body = one.health("/readyz")
    assert (status, body["streams"]["a"]["status"]) == (503, "live")
    (reason,) = body["reasons"]
    assert reason.startswith("b: the last tick came 40 seconds ago; usually ticks come every 2 s")
    assert reason.endswith("; no heartbeat comes")


def test_a_store_that_cannot_be_written_is_not_ready(live, tmp_path):
    one = live(pages=True, store=tmp_path / "s.db")
    one.ticks(series(20))
    one.until(lambda: one.elements() == 20)
    one.stop.requested = False
    assert one.health("/readyz")[0] == 200
    one.store._writer.catch_up()
    one.store._writer.trouble = "database or disk is full"
    status, body = one.health("/readyz")
    metrics = one.samples()
    one.store._writer.trouble = None
    assert status == 503
    assert body["reasons"] == ["the store cannot be written: database or disk is full"]
    assert metrics["stream_lstm_store_healthy",] == metrics["stream_lstm_ready",] == 0


# ---- errors and the start -----------------------------------------------------------------


def test_a_scrape_that_raises_is_answered_and_counted_and_no_tick_waits(live):
    lines = []
    one = live()
    with Monitor(ServeConfig(metrics="127.0.0.1:0"), say=lines.append) as broken:
        broken._daemon = one  # not a daemon
        status, _, body = get(broken.address, "/metrics")
        assert status == 500
        assert "AttributeError" in body
        assert "could not be made" in lines[0]
        one.ticks(series(40))
        one.finish()
        assert one.stream().n == 40
        broken._daemon = one.daemon
        assert f"{PREFIX}scrape_errors_total 1.0" in get(broken.address, "/metrics")[2]


def test_before_there_is_a_daemon_the_pages_are_there():
    with Monitor(ServeConfig(metrics="127.0.0.1:0")) as alone:
        assert f"{PREFIX}ready 0.0" in get(alone.address, "/metrics")[2]
        assert [get(alone.address, path)[0] for path in ("/", "/livez", "/readyz")] == [
            200,
            200,
            503,
        ]
        assert alone.health.ready()["reasons"] == ["it is still starting"]
        with pytest.raises(EndpointError, match="already in use"):
            Monitor(ServeConfig(metrics=alone.address))
