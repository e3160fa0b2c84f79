"""A dashboard for Grafana over the metrics of `families`, made from a table of its panels.

It asks for nothing but Grafana 10 or newer and a Prometheus data source, both of which are chosen
on the page, and so are the daemons to be shown. `$daemon` stands in every query for those.
"""

from __future__ import annotations

from typing import Any, NamedTuple

DAEMON = 'instance=~"$instance"'

WIDTH, HEIGHT = 24, 8
"""Columns of Grafana's grid, and rows of it that a graph takes."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}

HELD = "sum(increase(stream_lstm_{}_total{{$daemon}}[$window]))"
"""What a counter rose by, over all daemons, within the window that is chosen on the page."""

FORECASTS = ("model", "base_rate", "last_label")


class Panel(NamedTuple):
    """A panel: its queries with their legends, a unit of Grafana's, a kind and a width of 24."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    words: str = ""


def _rate(metric: str, by: str = "instance", more: str = "") -> str:
    return f"sum by ({by}) (rate(stream_lstm_{metric}{{$daemon{more}}}[$__rate_interval]))"


def _quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (f"histogram_quantile({q}, {_rate(f'{metric}_seconds_bucket', labels)})", name + legend)
        for q, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
    )


def _loss(forecast: str) -> tuple[str, str]:
    loss = f'stream_lstm_log_loss_nats_total{{$daemon, forecast="{forecast}"}}'
    return f"sum(increase({loss}[$window])) / {HELD.format('labels')}", forecast


def _of(metric: str) -> str:
    return f"stream_lstm_{metric}{{$daemon}}"


def _refused(what: str) -> Panel:
    query = _rate(f"refused_{what}_total", "reason")
    return Panel(f"Refused {what}", ((query, "{{reason}}"),), "ops", width=8)


ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it well?": (
        Panel("Ready", ((_of("ready"), "{{instance}}"),), "bool_yes_no", "stat", 4),
        Panel("Feed silent for", ((_of("feed_silence_seconds"), "{{instance}}"),), "s", "stat", 4),
        Panel("Loop last turned", ((_of("loop_age_seconds"), "{{instance}}"),), "s", "stat", 4),
        Panel(
            "Store written", ((_of("store_healthy"), "{{instance}}"),), "bool_yes_no", "stat", 4
        ),
        Panel("Warm streams", ((_of("warm_streams"), "{{instance}}"),), "short", "stat", 4),
        Panel(
            "Roll-backs",
            ((HELD.format("rollbacks"), "in the window"),),
            "short",
            "stat",
            4,
        ),
    ),
    "Is it any good?": (
        Panel(
            "Log loss over the window, nats",
            (*map(_loss, FORECASTS), ("vector(0.6931471805599453)", "a coin, ln 2")),
        ),
        Panel(
            "Accuracy over the window",
            ((f"{HELD.format('correct_predictions')} / {HELD.format('labels')}", "model"),),
            "percentunit",
        ),
        Panel(
            "Evidence that it is better, nats",
            ((_of("stream_evidence_nats"), "{{stream}} against {{against}}"),),
            words="3.0 is 20 : 1, from where on it may be believed.",
        ),
    ),
    "How fast?": (
        Panel("From tick to publication", _quantiles("tick_to_publish"), "s"),
        Panel("Wait in the socket, at most", _quantiles("queue_age"), "s"),
        Panel("One update", _quantiles("update"), "s"),
        Panel("One call into the network", _quantiles("step", "call"), "s"),
        Panel(
            "Elements, predictions, labels",
            tuple(
                (_rate(f"{name}_total"), name) for name in ("elements", "predictions", "labels")
            ),
            "ops",
        ),
        Panel(
            "Elements by stream",
            ((_rate("stream_elements_total", "stream"), "{{stream}}"),),
            "ops",
        ),
    ),
    "What was refused, what was lost": (
        _refused("messages"),
        _refused("ticks"),
        _refused("labels"),
        _refused("updates"),
        _refused("peers"),
        Panel(
            "Gaps and lost ticks",
            tuple(
                (_rate(f"{name}_total"), name.replace("_", " "))
                for name in ("gaps", "missed_ticks", "recovered_ticks", "unrecoverable_ticks")
            ),
            "ops",
        ),
    ),
    "Learning, store and process": (
        Panel(
            "Updates",
            tuple(
                (_rate(f"{name}_total"), name.replace("_", " "))
                for name in ("updates", "updates_rested", "refused_updates")
            ),
            "ops",
        ),
        Panel(
            "Store",
            ((_of("store_waiting_bytes"), "waiting {{instance}}"),),
            "bytes",
        ),
        Panel(
            "Memory",
            (("process_resident_memory_bytes{$daemon}", "resident {{instance}}"),),
            "bytes",
        ),
        Panel(
            "Processor",
            (("rate(process_cpu_seconds_total{$daemon}[$__rate_interval])", "{{instance}}"),),
            "percentunit",
        ),
        Panel(
            "Store: retries and inputs left out",
            tuple(
                (_rate(f"store_{name}_total"), name.replace("_", " "))
                for name in ("retries", "inputs_left_out")
            ),
            "ops",
        ),
        Panel(
            "Telemetry: log lines dropped, pages that failed",
            tuple(
                (_rate(f"{name}_total"), name.replace("_", " "))
                for name in ("log_lines_dropped", "scrape_errors")
            ),
            "ops",
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        where = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        panels.append({"type": "row", "title": title, "gridPos": where, "panels": []})
        top += 1
        left, height = 0, 4 if row[0].kind == "stat" else HEIGHT
        for panel in row:
            if left + panel.width > WIDTH:
                left, top = 0, top + height
            where = {"h": height, "w": panel.width, "x": left, "y": top}
            panels.append(_panel(panel, where))
            left += panel.width
        top += height
    for number, made in enumerate(panels, 1):
        made["id"] = number
    return {
        "title": "stream-lstm",
        "uid": "stream-lstm",
        "tags": ["stream-lstm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _panel(panel: Panel, where: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + k),
            "datasource": SOURCE,
            "expr": query.replace("$daemon", DAEMON),
            "legendFormat": legend,
        }
        for k, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.words,
        "datasource": SOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    windows = ("10m", "1h", "6h", "1d", "7d")
    return [
        {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "label": "Daemon",
            "type": "query",
            "datasource": SOURCE,
            "query": "label_values(stream_lstm_build_info, instance)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        },
        {
            "name": "window",
            "label": "Window",
            "type": "custom",
            "query": ",".join(windows),
            "current": {"text": "1h", "value": "1h"},
            "options": [{"text": w, "value": w, "selected": w == "1h"} for w in windows],
        },
    ]
