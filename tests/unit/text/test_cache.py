from services.text.cache import Cache
from shared.contracts.text import TextEncoded


def encoded(size_bytes: int) -> TextEncoded:
    return TextEncoded(1, size_bytes // 2, "bfloat16", bytes(size_bytes), "digest")


def test_the_least_recently_used_leaves_and_the_bound_holds() -> None:
    cache = Cache(max_bytes=303)
    for prompt in "abc":
        cache.put(prompt, encoded(100))
    assert cache.get("a") is not None
    cache.put("d", encoded(100))
    assert [prompt for prompt in "abcd" if cache.get(prompt)] == ["a", "c", "d"]
    assert cache.size_bytes == 303
    cache.put("d", encoded(40))
    assert cache.size_bytes == 243


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    cache = Cache(max_bytes=50)
    cache.put("a", encoded(100))
    assert (cache.get("a"), cache.size_bytes) == (None, 0)
