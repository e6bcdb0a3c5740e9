"""The heart of perdure: `apply(tables, command) -> actions`.

A partition is a set of tables and this function. Whatever happens to it, a client's call, a step's result, a
timer, a message from another partition, a person's wish to cancel, arrives as a command; `HANDLERS` names the
one function for each. The function changes the tables and says, as actions, what the world has to do. It asks
no clock, rolls no dice and waits for nothing, so the same tables and the same commands give the same tables
and the same actions; the simulator rests on that.

Nothing may be done about an action before the batch of changes it came with is on disk. The runtime sees to
that order (`runtime.loop`), and so a crash has only two outcomes for a command: it never happened, or it is
stored and `Recover` finds in the tables what was still to be done about it.

A command to an invocation of this partition that another command gives rise to (a call, a result for the
caller, a kill that spreads) waits in `Turn.local` and is applied before `apply` returns: same batch, no gap.

Where to read on: `lifecycle` for what becomes of an invocation, `journal` for what a handler's entries do,
`inbox` for objects, `delivery` for time and other partitions, `control` for people.
"""

from collections.abc import Callable
from typing import Any

from perdure.core import control, delivery, deployments, journal, keys, lifecycle, streams
from perdure.core.tables import Tables
from perdure.core.turn import Turn
from perdure.model import commands as c
from perdure.model.actions import Action

__all__ = ["HANDLERS", "MESSAGES", "apply"]


def _tick(turn: Turn, command: c.Tick) -> None:
    delivery.tick(turn)


def _deliver(turn: Turn, command: c.Deliver) -> None:
    if delivery.deliver(turn, command):
        turn.post_local(command.message)


HANDLERS: dict[type[Any], Callable[[Turn, Any], None]] = {
    c.Invoke: lifecycle.accept,
    c.Append: journal.append,
    c.AppendCall: journal.append_call,
    c.Propose: journal.propose,
    c.WriteStream: streams.write,
    c.Pin: deployments.pin,
    c.Suspend: lifecycle.suspend,
    c.End: lifecycle.end,
    c.Fail: lifecycle.fail,
    c.Note: lifecycle.note,
    c.Load: lifecycle.load,
    c.Tick: _tick,
    c.Recover: delivery.recover,
    c.SendSignalTo: control.signal,
    c.Cancel: control.cancel,
    c.Kill: control.kill,
    c.Pause: control.pause,
    c.Resume: control.resume,
    c.Purge: control.purge,
    c.Restart: control.restart,
    c.Attach: control.attach,
    c.Describe: control.describe,
    c.ReadState: control.read_state,
    c.ReadStream: streams.read,
    c.ChangeState: control.change_state,
    c.PutDeployment: deployments.put,
    c.RemoveDeployment: deployments.remove,
    c.CreateKey: keys.create,
    c.RevokeKey: keys.revoke,
    c.Deliver: _deliver,
    c.Delivered: delivery.delivered,
}

MESSAGES: dict[type[Any], Callable[[Turn, Any], None]] = {  # what one invocation may tell another
    c.Invoke: lifecycle.accept,
    c.CompleteCall: lifecycle.completed_call,
    c.AttachFrom: control.attach_from,
    c.SendSignalTo: control.signal,
    c.Cancel: control.cancel,
    c.Kill: control.kill,
}


def apply(tables: Tables, command: c.PartitionCommand) -> list[Action]:
    """Make one command happen. The actions are for after the batch is on disk."""
    turn = Turn(tables, command.at)
    HANDLERS[type(command)](turn, command)
    while turn.local:
        message = turn.local.popleft()
        MESSAGES[type(message)](turn, message)
    return turn.actions
