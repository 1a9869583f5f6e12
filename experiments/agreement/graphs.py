"""Profiles with a graph of services, as plain data: a front with parallel calls, a diamond, and ten services.

The third has the shape of published microservice benchmarks of web shops: a front, a catalogue, a cart, recommendations,
advertisements, a checkout that calls payment, shipping and mail, and a currency service that many call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sim_core.profile import load_profile

_PODS = 10
Data = dict[str, Any]


def _service(name: str, endpoints: Mapping[str, list[Data]], cores: float = 1.0) -> Data:
    """A service like `production`'s in all that a graph does not say."""
    plain = load_profile("production").services[0].model_dump(mode="json")
    plain |= {"name": name, "replicas": {"initial": _PODS, "min": 1, "max": 4 * _PODS}}
    plain["container"] |= {"cpu_request_cores": cores, "cpu_limit_cores": cores, "workers": 64, "queue_limit": 64}
    plain["container"] |= dict.fromkeys(("cpu_seconds_per_request", "cpu_scv", "io_seconds_per_request"))
    del plain["queries"]
    return plain | {"endpoints": [{"name": endpoint, "steps": steps} for endpoint, steps in endpoints.items()]}


def _profile(name: str, description: str, services: list[Data], requests: list[Data]) -> Data:
    return load_profile("production").to_dict() | {
        "name": name, "description": description, "services": services, "requests": requests,
    }  # fmt: skip


def _cpu(seconds: float, scv: float = 1.0) -> Data:
    return {"cpu": {"seconds": seconds, "scv": scv}}


def _wait(seconds: float) -> Data:
    return {"wait": {"seconds": seconds, "scv": 1.0}}


def _call(endpoint: str, count: float = 1.0, probability: float = 1.0) -> Data:
    return {"call": {"endpoint": endpoint, "count": count, "probability": probability}}


def parallel_front() -> Data:
    """A web front that asks three services at once and joins their answers."""
    at_once = {"parallel": [[_call("catalog.list")], [_call("profile.get")], [_call("offers.get")]]}
    services = [
        _service("web", {"home": [_cpu(0.004), at_once, _cpu(0.002)]}),
        _service("catalog", {"list": [_cpu(0.008), {"cached_read": {"count": 2.0}}, {"read": {"count": 0.2}}]}),
        _service("profile", {"get": [_cpu(0.005), {"read": {"count": 0.3}}]}),
        _service("offers", {"get": [_cpu(0.006, 4.0), _wait(0.01)]}),
    ]
    return _profile("parallel-front", parallel_front.__doc__ or "", services, [_class("browse", 1.0, "web.home")])


def diamond() -> Data:
    """Two services between a front and a store that both of them call."""
    services = [
        _service("front", {"get": [_cpu(0.003), _call("left.get"), _call("right.get", probability=0.5)]}),
        _service("left", {"get": [_cpu(0.006), _call("store.read")]}),
        _service("right", {"get": [_cpu(0.008), _call("store.read", count=2.0)]}),
        _service("store", {"read": [_cpu(0.004), {"cached_read": {"count": 1.0}}, {"write": {"count": 0.05}}]}),
    ]
    return _profile("diamond", diamond.__doc__ or "", services, [_class("get", 1.0, "front.get")])


def shop() -> Data:
    """Ten services of a web shop, three kinds of requests."""
    money = _call("currency.convert", count=2.0)
    products = _call("catalog.list")
    services = [
        _service(
            "web",
            {
                "home": [_cpu(0.004), {"parallel": [[products], [_call("ads.get")], [_call("cart.get")]]}, money],
                "product": [_cpu(0.004), _call("catalog.get"), _call("recommend.get"), money],
                "buy": [_cpu(0.006), _call("checkout.place")],
            },
        ),
        _service("catalog", {"list": [_cpu(0.006), {"cached_read": {"count": 3.0}}], "get": [_cpu(0.002)]}),
        _service("cart", {"get": [_cpu(0.002), {"cached_read": {"count": 1.0}}], "empty": [_cpu(0.002)]}),
        _service("recommend", {"get": [_cpu(0.008), products]}),
        _service("ads", {"get": [_cpu(0.003, 4.0)]}),
        _service("currency", {"convert": [_cpu(0.0015)]}),
        _service(
            "checkout",
            {
                "place": [
                    _cpu(0.008),
                    _call("cart.get"),
                    {"parallel": [[_call("payment.charge")], [_call("shipping.quote")]]},
                    {"write": {"count": 1.0}},
                    _call("mail.send"),
                    _call("cart.empty"),
                ]
            },
        ),
        _service("payment", {"charge": [_cpu(0.003), _wait(0.05)]}),
        _service("shipping", {"quote": [_cpu(0.004)]}),
        _service("mail", {"send": [_cpu(0.003), _wait(0.005)]}),
    ]
    requests = [
        _class("home", 0.5, "web.home"),
        _class("product", 0.4, "web.product"),
        _class("buy", 0.1, "web.buy", threshold_s=1.0),
    ]
    return _profile("shop", shop.__doc__ or "", services, requests)


def _class(name: str, share: float, endpoint: str, threshold_s: float | None = None) -> Data:
    slo = {"objective": 0.99, "latency_threshold_seconds": threshold_s} if threshold_s else None
    return {"name": name, "share": share, "endpoint": endpoint, "slo": slo}


GRAPHS: Mapping[str, Callable[[], Data]] = {"parallel": parallel_front, "diamond": diamond, "shop": shop}
