"""Tables that the settings name and that are not there."""

from __future__ import annotations

from embcache.config import Settings
from embcache.named import not_there, warnings


def test_what_is_not_there_is_told_by_setting_with_what_is_near() -> None:
    settings = Settings.model_validate({"warm": {"fixed": ["item=1MiB", "uesr=2MiB"]}, "hot": {"pinned": ["itme"]}})
    assert not_there(settings, {"item", "user"}) == {"warm.fixed": ["uesr"], "hot.pinned": ["itme"]}
    assert not_there(settings, {"item", "uesr", "itme"}) == {}
    assert warnings(settings, ["item", "user", "itme"]) == [
        "warm.fixed names table 'uesr', which is not there (the nearest name is 'user'); it counts once that is created"
    ]
    assert "'itme', which is not there; it counts" in warnings(settings, [])[-1]
    assert warnings(Settings(), []) == []
