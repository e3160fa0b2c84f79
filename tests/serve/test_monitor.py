"""/metrics of a real daemon: every figure is the daemon's own, and the page is what tools read."""

import json
import re
import shutil
import subprocess
import threading
from importlib.resources import files

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from stream_lstm.core.replay import Digest
from stream_lstm.errors import EndpointError
from stream_lstm.events import Prediction
from stream_lstm.schema import ServeConfig
from stream_lstm.serve.daemon import MANY
from stream_lstm.serve.monitor import Monitor

from .monitored import Monitored, asked, series

PREFIX = "stream_lstm_"

DASHBOARD = json.loads((files("stream_lstm") / "data" / "grafana.json").read_text("utf-8"))
DAEMON = 'instance=~"$instance"'
QUERIES = [
    (t["expr"], t["legendFormat"]) for p in DASHBOARD["panels"] for t in p.get("targets", ())
]

PROMTOOL = shutil.which("promtool")

UNITS = ("seconds", "bytes", "nats")

OTHER_UNITS = (
    "milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "ms", "us", "ns",
    "kilobytes", "megabytes", "gigabytes", "kb", "mb", "gb", "bits", "percent",
)  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A daemon that learned from outside's labels and was sent one mistake of every kind."""
    path = tmp_path_factory.mktemp("store") / "s.db"
    with Monitored(path=path, learn=True, labels="external", max_streams=2) as watched:
        values = series(300)
        values[150] = np.nan
        watched.send(b"tick/a", b"{}")
        watched.send(b"tick/a/", b"{")
        watched.send(b"tick/a/", b'{"v": 9, "session": "s1", "values": [1.0]}')
        watched.send(b"tick/a/", b"x" * (17 * 2**20))
        watched.publisher._socket.send_multipart([b"tick/a/", b"", b""])
        watched.ticks(values[:200], 1)
        watched.ticks(values[:20], 1)
        for n in (12, 22, 32):
            watched.label(n, int(n % 4 == 0))
        watched.label(12, 1)
        watched.label(22, 1)
        watched.label(13, 1)
        watched.label(42, 7)
        watched.label(12, 1, "nobody")
        watched.ticks(values[205:], 206)
        watched.ticks(values[:30], 1, "b")
        watched.ticks(values[:30], 1, "one-too-many")
        watched.run()
        yield watched


@pytest.fixture(scope="module")
def samples(watched):
    return watched.samples()


def test_every_count_is_the_daemons(watched, samples):
    session, feed = watched.daemon.session, watched.daemon.subscriber.counters
    streams = session.streams.values()

    def total(name):
        return sum(getattr(stream.counters, name) for stream in streams)

    assert samples[PREFIX + "streams",] == samples[PREFIX + "warm_streams",] == 2
    assert samples[PREFIX + "elements_total",] == sum(s.n for s in streams) > 300
    assert samples[PREFIX + "predictions_total",] == total("predictions") > 30
    assert samples[PREFIX + "labels_total",] == sum(s.scores.labels for s in streams) == 3
    assert samples[PREFIX + "updates_total",] == total("updates") == 3
    assert samples[PREFIX + "gaps_total",] == 1
    assert samples[PREFIX + "compilations_after_ready_total",] == watched.daemon.compilations
    assert samples[PREFIX + "missed_ticks_total",] == 5
    assert samples[PREFIX + "feed_messages_total",] == feed.messages
    losses = [sum(s.scores.losses[k] for s in streams) for k in range(3)]
    for k, name in enumerate(("model", "base_rate", "last_label")):
        assert samples[PREFIX + "log_loss_nats_total", name] == losses[k] > 0
    right = sum(s.scores.ways[0].correct for s in streams)
    assert samples[PREFIX + "correct_predictions_total",] == right


def test_every_refusal_is_counted_by_its_reason(watched, samples):
    def refused(what):
        return {
            key[1]: v for key, v in samples.items() if key[0] == f"{PREFIX}refused_{what}_total"
        }

    found = refused("messages")
    assert found.pop("recovery") == found.pop("columns") == found.pop("not_owner") == 0
    assert found.pop("too_many_streams") == 2, "its ticks and its end"
    assert found == dict.fromkeys(("frames", "topic", "size", "version", "payload"), 1)
    assert sum(refused("messages").values()) == watched.daemon.subscriber.counters.refused
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


def test_streams_are_told_of_one_by_one(watched, samples):
    for name, stream in watched.daemon.session.streams.items():
        assert samples[PREFIX + "stream_elements_total", name] == stream.n
        assert samples[PREFIX + "stream_labels_total", name] == stream.scores.labels
    evidence = watched.daemon.session.streams["a"].scores.evidence.log_e()
    against = ("coin", "base_rate", "last_label")
    assert [samples[PREFIX + "stream_evidence_nats", a, "a"] for a in against] == list(evidence)


def test_stages_are_timed(samples):
    predictions = samples[PREFIX + "predictions_total",]
    for name in ("tick_to_publish", "queue_age"):
        assert samples[f"{PREFIX}{name}_seconds_count",] == predictions
    assert 0 < samples[PREFIX + "tick_to_publish_seconds_sum",] < 60
    assert samples[PREFIX + "update_seconds_count",] == samples[PREFIX + "updates_total",]


def test_some_calls_into_the_network_are_timed_and_then_left_alone():
    with Monitored() as watched:
        engine = watched.daemon.session.engine
        left = iter(series(40))
        sampled = []

        def one_tick():
            value = next(left, None)
            if value is None:
                streams = watched.daemon.session.streams.values()
                if any(stream.n for stream in streams):  # what was sent may be on its way
                    watched.stop.set()
                return
            watched.monitor.timings.sample()
            sampled.append("advance_in_place" in vars(engine))
            watched.publisher.publish("a", 1, value)

        watched.daemon.every(0.0, one_tick)
        watched.daemon.run()
        counted = watched.samples()
    assert all(sampled)
    assert 0 < counted[PREFIX + "step_seconds_count", "step"] <= 40
    assert vars(engine).keys().isdisjoint({"advance_in_place", "window", "run_strides", "update"})


def test_a_watched_daemon_gives_the_bits_of_one_that_is_not():
    digests = []
    for watch in (False, True):
        with Monitored(learn=True) as watched:
            if not watch:
                watched.monitor.close()
            scraping = threading.Event()

            def scrape(watched=watched, scraping=scraping):
                while not scraping.wait(0.001):
                    watched.page("/metrics")

            thread = threading.Thread(target=scrape)
            if watch:
                thread.start()
            watched.publisher.publish("a", np.arange(700), series(700))
            watched.run()
            scraping.set()
            if watch:
                thread.join()
                assert watched.samples()[PREFIX + "scrape_errors_total",] == 0
            digest = Digest()
            for event in watched.events:
                if isinstance(event, Prediction):
                    digest.add(event)
            digests.append(digest.hexdigest())
    assert digests[0] == digests[1]


def test_calls_for_many_streams_are_timed_too():
    names = [f"s{k}" for k in range(2 * MANY)]
    with Monitored(streams=names) as watched:
        for k in range(20):
            for name in names:
                watched.ticks(series(1, seed=k), k + 1, name)
        watched.monitor.timings.sample()
        watched.run()
        samples = watched.samples()
    assert samples[PREFIX + "elements_total",] == 20 * len(names)
    assert samples[PREFIX + "stream_elements_total", "s1"] == 20
    assert samples[PREFIX + "warm_streams",] == len(names)
    assert samples[PREFIX + "labels_total",] == len(names)
    assert samples[PREFIX + "step_seconds_count", "table"] >= 1


# ---- the page -----------------------------------------------------------------------------


def test_the_page_parses_as_prometheus_text_and_as_openmetrics(watched):
    _, kind, _ = watched.page("/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    accept = "application/openmetrics-text; version=1.0.0"
    _, kind, body = watched.page("/metrics", Accept=accept)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    named = {family.name for family in openmetrics_families(body)}
    assert {PREFIX + "elements", PREFIX + "ready", PREFIX + "update_seconds"} <= named


def test_no_family_and_no_series_is_there_twice(watched):
    families = watched.families()
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


def test_names_follow_the_rules_of_prometheus(watched):
    families = watched.families()
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


def test_histograms_have_buckets_that_grow_to_all_a_sum_and_a_count(watched):
    for family in (f for f in watched.families() if f.type == "histogram"):
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
def test_promtool_has_nothing_to_say_of_the_page_and_of_the_dashboards_queries(watched, tmp_path):
    def said(*arguments, page=None):
        done = subprocess.run(
            [PROMTOOL, "check", *arguments],
            input=page,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert said("metrics", page=watched.page("/metrics")[2]) == (0, "")
    queries = [query for query, _ in QUERIES]
    chosen = {"$__rate_interval": "5m", "$window": "1h", "$instance": ".*"}
    for variable, value in chosen.items():
        queries = [query.replace(variable, value) for query in queries]
    rules = [{"record": f"query:{k}", "expr": query} for k, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert said("rules", str(file)) == (0, "")


# ---- the dashboard ------------------------------------------------------------------------


def test_every_metric_and_label_of_the_dashboard_exists(watched):
    known = {}
    for family in watched.families():
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


def test_the_dashboard_has_what_grafana_asks_of_one():
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


# ---- what goes wrong ----------------------------------------------------------------------


def test_a_scrape_that_raises_is_an_answer_and_counted_and_no_tick_waits():
    told = []
    serve = ServeConfig(metrics="127.0.0.1:0")
    with Monitor(serve, say=told.append) as monitor, Monitored() as watched:
        # a daemon whose insides are not what the page believes them to be
        monitor._daemon = watched
        status, _, body = asked(monitor.address, "/metrics")
        assert status == 500
        assert "AttributeError" in body
        assert "could not be made" in told[0]
        watched.ticks(series(40), 1)
        watched.run()
        assert watched.daemon.session.streams["a"].n == 40
        monitor._daemon = watched.daemon
        assert f"{PREFIX}scrape_errors_total 1.0" in asked(monitor.address, "/metrics")[2]


def test_before_there_is_a_daemon_the_page_is_there():
    with Monitor(ServeConfig(metrics="127.0.0.1:0")) as monitor:
        assert f"{PREFIX}ready 0.0" in asked(monitor.address, "/metrics")[2]
        assert asked(monitor.address, "/")[0] == 200
        with pytest.raises(EndpointError, match="already in use"):
            Monitor(ServeConfig(metrics=monitor.address))
