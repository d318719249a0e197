"""A Perfetto trace as its own classes read it, taken apart into slices and flows."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent


@dataclass
class Slice:
    name: str
    track: int
    begin_ns: int
    end_ns: int = -1
    depth: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    flows: list[int] = field(default_factory=list)
    ended_flows: list[int] = field(default_factory=list)
    children: list["Slice"] = field(default_factory=list)


@dataclass
class Parsed:
    """tracks: uuid -> (name, uuid of its parent); processes: uuid -> (pid, name)."""

    slices: list[Slice]
    tracks: dict[int, tuple[str, int]]
    processes: dict[int, tuple[int, str]]
    clocks: dict[int, int]


def parse(data: bytes) -> Parsed:
    """Raises AssertionError where a slice is not well-formed, as trace_processor would drop it."""
    trace = Trace.FromString(data)
    names: dict[str, dict[int, str]] = defaultdict(dict)
    found = Parsed([], {}, {}, {})
    events = []
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        for kind in ("event_names", "debug_annotation_names", "debug_annotation_string_values"):
            for entry in getattr(packet.interned_data, kind):
                value = entry.str.decode() if kind.endswith("values") else entry.name
                assert entry.iid not in names[kind]
                names[kind][entry.iid] = value
        if packet.HasField("clock_snapshot"):
            assert packet.clock_snapshot.primary_trace_clock == 3
            found.clocks = {clock.clock_id: clock.timestamp for clock in packet.clock_snapshot.clocks}
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            if track.HasField("process"):
                found.processes[track.uuid] = track.process.pid, track.process.process_name
            else:
                assert track.parent_uuid in found.processes
                found.tracks[track.uuid] = track.name, track.parent_uuid
        if packet.HasField("track_event"):
            event = packet.track_event
            assert event.track_uuid in found.tracks  # described before it is used
            if event.type == TrackEvent.TYPE_SLICE_BEGIN:
                assert event.name_iid in names["event_names"]
            events.append((packet.timestamp, event))
    assert trace.packet[0].trace_packet_defaults.timestamp_clock_id == 3
    _nest(events, names, found)
    return found


def _nest(events: list[Any], names: dict[str, dict[int, str]], found: Parsed) -> None:
    stacks: dict[int, list[Slice]] = defaultdict(list)
    for at_ns, event in sorted(events, key=lambda pair: pair[0]):  # stable, as trace_processor sorts
        stack = stacks[event.track_uuid]
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            made = Slice(names["event_names"][event.name_iid], event.track_uuid, at_ns, depth=len(stack))
            made.flows, made.ended_flows = list(event.flow_ids), list(event.terminating_flow_ids)
            for note in event.debug_annotations:
                kind = note.WhichOneof("value")
                value = getattr(note, kind)
                if kind == "string_value_iid":
                    value = names["debug_annotation_string_values"][value]
                made.arguments[names["debug_annotation_names"][note.name_iid]] = value
            if stack:
                stack[-1].children.append(made)
            stack.append(made)
            found.slices.append(made)
        else:
            stack.pop().end_ns = at_ns
    assert not any(stacks.values())
