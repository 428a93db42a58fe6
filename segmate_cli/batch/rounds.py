"""One go over a list of cases: by the crew, then those too large for a share of memory alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segmate_cli.batch import records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.crew import Crew, LocalCrew
from segmate_cli.batch.driver import Driver, Plan, Tally
from segmate_cli.batch.events import EventLog
from segmate_cli.batch.stopping import Stop
from segmate_cli.batch.view import Style, view

MakeCrew = Callable[[Plan], Crew]


@dataclass(frozen=True, slots=True)
class Rounds:
    """What all rounds of a batch share.

    Attributes:
        plan: For the crew.
        alone: For one local worker with the whole memory cap.
        crew: Makes the crew of a round.
        tally: Counts.
        events: Is told.
        stop: May end a round early.
        style: How it is shown.
    """

    plan: Plan
    alone: Plan
    crew: MakeCrew
    tally: Tally
    events: EventLog
    stop: Stop
    style: Style

    def do(self, cases: Sequence[Case]) -> list[tuple[str, str]]:
        """Do the cases; gives pairs (case, case that took over its results).

        Errors as ``Driver.run``.
        """
        with self.stop.cases_under_way(), view(self.style, self.tally) as shown:
            first = Driver(
                self.plan, self.crew(self.plan), self.tally, self.events, shown, self.stop
            )
            first.run(cases)
            if not first.too_large or self.stop.asked:
                return first.taken
            crew = local_crew(self.alone)
            last = Driver(self.alone, crew, self.tally, self.events, shown, self.stop)
            last.run(first.too_large)
            return first.taken + last.taken


def local_crew(plan: Plan) -> LocalCrew:
    """Worker processes on this machine."""
    state = plan.out / records.STATE_FOLDER
    return LocalCrew(plan.settings, state, plan.jobs, plan.timeout_s)
