"""Carries out actions: one function for each, the mirror image of `model/actions.py`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.model import actions as a

if TYPE_CHECKING:  # the node performs through this table, and the table's functions are about the node
    from perdure.runtime.node import Node

__all__ = ["PERFORMERS"]


def _start_attempt(node: "Node", partition: int, action: a.StartAttempt) -> None:
    node.streams.started(action.invocation.id, action.invocation.attempts)
    if not node.invoker.loaded(partition, action):
        node.invoker.start(partition, action)


def _notify(node: "Node", partition: int, action: a.Notify) -> None:
    node.invoker.notify(partition, action.number, action.notification)


def _abort_attempt(node: "Node", partition: int, action: a.AbortAttempt) -> None:
    node.invoker.abort(partition, action.number)
    node.streams.aborted(partition, action.number)


def _set_timer(node: "Node", partition: int, action: a.SetTimer) -> None:
    node.set_timer(partition, action.at)


def _send(node: "Node", partition: int, action: a.Send) -> None:
    node.courier.send(partition, action)


def _ack_delivery(node: "Node", partition: int, action: a.AckDelivery) -> None:
    node.courier.acknowledge(partition, action.source, action.position)


def _reply(node: "Node", partition: int, action: a.Reply) -> None:
    node.reply(action.token, action.outcome)


def _finished(node: "Node", partition: int, action: a.Finished) -> None:
    node.finished(action)


def _stream_stored(node: "Node", partition: int, action: a.StreamStored) -> None:
    node.streams.stored(action.id, action.attempt, action.source)


def _deploy(node: "Node", partition: int, action: a.Deploy) -> None:
    node.registry.deploy(action.deployment)


def _undeploy(node: "Node", partition: int, action: a.Undeploy) -> None:
    node.registry.undeploy(action.id)


def _learn_key(node: "Node", partition: int, action: a.LearnKey) -> None:
    node.keyring.learn(action.key)


def _forget_key(node: "Node", partition: int, action: a.ForgetKey) -> None:
    node.keyring.forget(action.id)


PERFORMERS: dict[type[Any], "Callable[[Node, int, Any], None]"] = {
    a.StartAttempt: _start_attempt,
    a.Notify: _notify,
    a.AbortAttempt: _abort_attempt,
    a.SetTimer: _set_timer,
    a.Send: _send,
    a.AckDelivery: _ack_delivery,
    a.Reply: _reply,
    a.Finished: _finished,
    a.StreamStored: _stream_stored,
    a.Deploy: _deploy,
    a.Undeploy: _undeploy,
    a.LearnKey: _learn_key,
    a.ForgetKey: _forget_key,
}
