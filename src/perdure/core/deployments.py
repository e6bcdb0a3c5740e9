"""Deployments are rows of partition 0; every process finds them there when it starts."""

from perdure.core import lifecycle
from perdure.core.tables import DEPLOYMENT
from perdure.core.turn import Turn
from perdure.model.actions import Deploy, Done, Reply, Undeploy
from perdure.model.commands import Pin, PutDeployment, RemoveDeployment

__all__ = ["pin", "put", "recover", "remove"]


def put(turn: Turn, command: PutDeployment) -> None:
    """Store a new deployment, or what has become of a known one."""
    turn.tables.put(DEPLOYMENT, (command.deployment.id,), command.deployment)
    turn.actions.append(Deploy(command.deployment))
    if command.token is not None:
        turn.actions.append(Reply(command.token, Done()))


def remove(turn: Turn, command: RemoveDeployment) -> None:
    """Forget a deployment."""
    turn.tables.delete(DEPLOYMENT, (command.id,))
    turn.actions.append(Undeploy(command.id))
    if command.token is not None:
        turn.actions.append(Reply(command.token, Done()))


def recover(turn: Turn) -> None:
    """Tell the process of all there are."""
    turn.actions += [Deploy(deployment) for _, deployment in turn.tables.scan(DEPLOYMENT, ())]


def pin(turn: Turn, command: Pin) -> None:
    """The invocation is about to have more than its input: it stays where it began."""
    invocation = lifecycle.current(turn, command.number, command.attempt)
    if invocation is not None:
        lifecycle.move(
            turn, invocation, invocation.status, deployment=command.deployment, protocol_version=command.version
        )
