"""Which request meets which fault."""

from chaos import faults
from chaos.calls import Call
from chaos.faults import Fault, OnKind, OnWrite, Weather

WRITE = Call(verb="apply", resource="services", name="demo")
LIST = Call(verb="list", resource="services")
LEASE = Call(verb="update", resource="leases")


def test_only_the_first_of_a_kind_is_met() -> None:
    rule = OnKind(kind="apply services", fault=faults.error("409"))
    assert [faults.decided([rule], call, 1) for call in (LIST, WRITE, WRITE)] == [None, faults.error("409"), None]


def test_only_the_write_of_that_number_is_met() -> None:
    rule = OnWrite(number=2, fault=Fault(what="kill before"))
    met = [rule.decide(call, number) for call, number in ((WRITE, 1), (LIST, 2), (WRITE, 2), (WRITE, 2))]
    assert met == [None, None, rule.fault, None]


def test_a_429_says_when_to_come_again() -> None:
    assert faults.status(faults.error("429"))["details"] == {"retryAfterSeconds": faults.RETRY_AFTER}


def test_a_seed_always_means_the_same_weather() -> None:
    def week(seed: int) -> list[Fault | None]:
        weather = Weather(seed=seed)
        return [weather.decide(call, 1) for call in (WRITE, LIST) * 200]

    assert week(3) == week(3) != week(4)


def test_weather_spares_leases_and_gives_reads_no_conflict() -> None:
    weather = Weather(seed=1, share=0.9)
    assert {weather.decide(LEASE, 1) for _ in range(50)} == {None}
    assert not {409, 422} & {fault.code for _ in range(200) if (fault := weather.decide(LIST, 1))}
