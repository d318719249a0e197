"""The HTTP API and the WebSocket, version 1."""

import asyncio
import contextlib
import json
import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response, WebSocket
from pydantic import AfterValidator, ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketState

from . import __version__, frame, models
from .aggregate import Aggregate
from .alarms.alarms import Alarms
from .errors import ApiError
from .hub import MAX_CLIENTS, MAX_ID, Client
from .metrics import Detail, collected
from .scrapes import CONTENT_TYPE, Scrapes
from .source import Status
from .switch import Switch
from .view import View, named_exits
from .vms import ALL
from .window import DEFAULT_WINDOW, WINDOWS
from .works import Works

router = APIRouter(responses=models.answers(413, 422, 500))

MAX_MESSAGE_BYTES: Final = 4096


def _on_offer(window: str) -> str:
    if window not in WINDOWS:
        raise ValueError(f"{window[:20]!r} is not on offer, use one of {', '.join(WINDOWS)}")
    return window


Window = Annotated[
    str,
    Query(description="How far back to look.", json_schema_extra={"enum": list(WINDOWS)}),
    AfterValidator(_on_offer),
]


class Services:
    """What the endpoints work on; one per app."""

    def __init__(self, switch: Switch, works: Works) -> None:
        self._switch = switch
        self.works = works
        self.hub = switch.hub
        self.scrapes = Scrapes()
        self.started_ns = time.monotonic_ns()

    @property
    def aggregate(self) -> Aggregate:
        """What is shown: the state of the source, or of a replay."""
        return self._switch.aggregate

    @property
    def status(self) -> Status:
        """How what is shown is fed."""
        return self._switch.status

    @property
    def unrecorded(self) -> str | None:
        """Why migrations that should be are not recorded."""
        return self._switch.unrecorded()

    @property
    def live(self) -> Aggregate:
        """The state of the source, also while a replay is shown."""
        return self._switch.live

    @property
    def live_status(self) -> Status:
        """How the source is."""
        return self._switch.live_status

    @property
    def live_alarms(self) -> Alarms:
        """What is wrong with it."""
        return self._switch.live_alarms


def services(connection: Request | WebSocket) -> Services:
    """The app's services."""
    found: Services = connection.app.state.services
    return found


@router.get("/api/v1/health", tags=["v1"])
async def health(request: Request) -> models.Health:
    """Whether the server works, and what it is fed by."""
    at = services(request)
    now_ns = time.monotonic_ns()
    connected = at.status.state(now_ns) == "connected"
    return models.Health(
        status="ok" if connected and at.works.well and at.unrecorded is None else "degraded",
        version=__version__,
        source=models.Source(**frame.source(at.aggregate, at.status)),
        uptime_ns=now_ns - at.started_ns,
        clients=len(at.hub.clients),
        unrecorded=at.unrecorded,
        failures=[models.Failure.model_validate(failure) for failure in at.works.failures.values()],
    )


@router.get("/api/v1/capabilities", tags=["v1"])
async def capabilities(request: Request) -> models.Capabilities:
    """The hook plan, and what this kernel cannot show."""
    at = services(request)
    hooks = [_hook(hook) for hook in frame.hooks(at.aggregate)]
    attached = sum(hook.status == "attached" for hook in hooks)
    lost = [hook for hook in hooks if hook.status != "attached"]
    summary = f"{attached} of {len(hooks)} hooks attached"
    return models.Capabilities(
        source=models.Source(**frame.source(at.aggregate, at.status)),
        summary=summary if hooks else "not known: no collector has been heard yet",
        capabilities=hooks,
        missing=[f"{hook.title}: {hook.effect}" for hook in lost],
        profile=_profile(frame.profile(at.aggregate)),
        max_vcpus=at.aggregate.hello.max_vcpus,
        windows=list(WINDOWS),
    )


@router.get("/api/v1/vms", tags=["v1"])
async def vms(request: Request) -> models.Vms:
    """Every VM: running ones, and those that ended in the last ten minutes."""
    return models.Vms.model_validate({"vms": frame.vm_list(services(request).aggregate)})


@router.get("/api/v1/vms/{vm}/vcpus", tags=["v1"], responses=models.answers(404))
async def vcpus(
    request: Request,
    vm: Annotated[str, Path(max_length=MAX_ID, description="Id of a VM, or `all`.")],
    window: Window = DEFAULT_WINDOW,
) -> models.Vcpus:
    """Each vCPU of a VM: faults and exits since first seen; latency, stages, stall, hardware exits over the window."""
    aggregate = services(request).aggregate
    selection = _select(aggregate, vm, 404)
    view = View(aggregate, selection.rows, WINDOWS[window])
    stages = view.stages_per_row()
    exits = [named_exits(totals["exits"]) for one in selection.vms for totals in one.totals(aggregate.rows)]
    listed = frame.vcpu_list(aggregate, selection, view)
    for entry, stage, exit_counts, hardware in zip(listed, stages, exits, view.hardware_exits_per_row(), strict=True):
        entry |= {"stages_ns": stage, "exits": exit_counts, "hardware_exits": hardware}
    return models.Vcpus.model_validate(
        {"window_ns": WINDOWS[window], "window_filled_ns": view.filled_ns, "vcpus": listed}
    )


@router.get("/api/v1/exits", tags=["v1"])
async def exits(
    request: Request,
    vm: Annotated[str, Query(max_length=MAX_ID, description="Id of a VM; empty or `all`: all running ones.")] = "",
    window: Window = DEFAULT_WINDOW,
) -> models.Exits:
    """How KVM_RUN returned to userspace, and why the processor left guest code."""
    aggregate = services(request).aggregate
    selection = _select(aggregate, vm or ALL, 422)
    view = View(aggregate, selection.rows, WINDOWS[window])
    return models.Exits(
        vm=selection.id,
        window_ns=WINDOWS[window],
        window_filled_ns=view.filled_ns,
        exits=view.exits(),
        hardware={reason: models.HardwareExit(**exits) for reason, exits in view.hardware_exits().items()},
        hardware_state=frame.hardware_state(aggregate),
    )


@router.get("/api/v1/loss", tags=["v1"])
async def loss(request: Request) -> models.Loss:
    """The loss ledger: every place where data can be lost, each with its own counter."""
    at = services(request)
    return models.Loss(**frame.loss(at.aggregate, at.hub.skipped))


@router.get("/metrics", tags=["Prometheus"], response_class=Response)
async def metrics(request: Request) -> Response:
    """The source's totals for Prometheus, in its text format, also during a replay; no guest addresses."""
    at = services(request)
    detail: Detail = request.app.state.detail
    families = collected(at.live, at.live_status, at.hub, at.live_alarms, detail)
    text = await at.scrapes.text(families)
    return Response(text, headers={"content-type": CONTENT_TYPE})


@router.websocket("/api/v1/live")
async def live(socket: WebSocket, vm: str = "", window: str = DEFAULT_WINDOW) -> None:
    """A history, then a frame five times a second; a message {"vm", "window"} changes what is shown."""
    hub = services(socket).hub
    await socket.accept()
    if len(hub.clients) >= MAX_CLIENTS:
        await socket.close(1013, f"{MAX_CLIENTS} pages are connected already: close one")
        return
    client = Client()
    client.subscribe(vm, window)
    hub.clients.add(client)
    tasks = [asyncio.create_task(hub.serve(client, socket)), asyncio.create_task(_listen(client, socket))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.clients.discard(client)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if socket.client_state is WebSocketState.CONNECTED:
            with contextlib.suppress(RuntimeError, OSError, TimeoutError):
                await asyncio.wait_for(socket.close(1008, "the client does not read"), 1)


async def _listen(client: Client, socket: WebSocket) -> None:
    """Take subscriptions until the other side goes."""
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            wanted = _parse(message.get("text"))
            if wanted is None:
                client.fail("invalid_message", 'a message must be {"vm": id, "window": name}', "Both are strings.")
            else:
                client.subscribe(wanted.get("vm", client.vm_id), wanted.get("window", client.window))


def _parse(text: str | None) -> dict[str, str] | None:
    """A subscription, or None if the text is none."""
    try:
        wanted = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(wanted, dict) or not wanted or wanted.keys() - {"vm", "window"}:
        return None
    return wanted if all(isinstance(value, str) for value in wanted.values()) else None


def _select(aggregate: Aggregate, vm: str, status: int) -> frame.Selection:
    selection = frame.select(aggregate, vm)
    if selection is None:
        known = ", ".join(vm.id for vm in list(aggregate.vms)[-10:]) or "none yet"
        raise ApiError(status, "unknown_vm", f"vm: no VM {vm!r}", f"VMs seen: {known}.", "vm")
    return selection


def _profile(said: dict[str, Any]) -> models.Profile | None:
    """What a collector said of its kernel, if it fits."""
    try:
        return models.Profile.model_validate(said) if said else None
    except ValidationError:
        return None


def _hook(said: dict[str, Any]) -> models.Hook:
    """A hook as the collector describes it, with what it leaves out."""
    passed_over = []
    for item in said.get("passed_over") or []:
        attachment, reason = (item.get("attachment"), item.get("reason")) if isinstance(item, dict) else item
        passed_over.append(models.PassedOver(attachment=str(attachment), reason=str(reason)))
    return models.Hook(
        hook=str(said.get("hook", "")),
        title=str(said.get("title") or said.get("hook", "")),
        status=str(said.get("status", "missing")),
        attachment=said.get("attachment"),
        passed_over=passed_over,
        effect=str(said.get("effect", "")),
        essential=bool(said.get("essential", True)),
    )
