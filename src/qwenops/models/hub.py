"""Two hubs, one shape: which files a repository has, how large they are, what they hash to, where they are fetched.

Hugging Face
    `/api/models/{repo}/revision/{rev}` names the commit, `/api/models/{repo}/tree/{commit}?recursive=true` lists files
    page by page (`Link: ...; rel="next"`). Files in LFS come with their SHA-256, the others with their git blob's
    SHA-1. `/{repo}/resolve/{commit}/{file}` redirects to a CDN.
ModelScope
    `/api/v1/models/{repo}/repo/files?Revision=...&Recursive=true` lists files with their SHA-256;
    `/models/{repo}/resolve/{rev}/{file}` serves or redirects.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from urllib.parse import quote, urlencode

from qwenops.errors import DownloadError, ModelLoadError, ModelNotFoundError, UnsupportedModelError
from qwenops.models.checkpoint import PICKLE_SUFFIXES
from qwenops.models.spec import ModelSpec
from qwenops.options import Unit, option
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.models.download import Web  # it brings asyncio, which `qwenops --help` does not need

T = TypeVar("T")

NEEDED_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt")
MAX_PAGES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """Where models come from, and how patient we are with it."""

    source: Literal["auto", "huggingface", "modelscope"] = option(
        "auto",
        help="Hub that published models come from; auto asks Hugging Face first, then ModelScope.",
        choices=("auto", "huggingface", "modelscope"),
    )
    huggingface_url: str = option("https://huggingface.co", help="Hugging Face or a mirror of it.", flag=False)
    modelscope_url: str = option("https://modelscope.cn", help="ModelScope or a mirror of it.", flag=False)
    huggingface_token: str = option("", help="Token for private repositories of Hugging Face.", secret=True, flag=False)
    modelscope_token: str = option("", help="Token for private repositories of ModelScope.", secret=True, flag=False)
    attempts: int = option(
        5, help="Tries in a row that bring nothing before a transfer is given up.", minimum=1, maximum=20, flag=False
    )
    connect_timeout_s: float = option(
        15.0, help="Longest wait for a connection.", unit=Unit.SECONDS, minimum=0.1, flag=False
    )
    stall_timeout_s: float = option(
        30.0, help="Longest silence in the middle of a transfer.", unit=Unit.SECONDS, minimum=0.1, flag=False
    )
    retry_pause_s: float = option(
        1.0, help="Pause before the second try; it doubles with each.", unit=Unit.SECONDS, minimum=0.0, flag=False
    )
    parallel: int = option(3, help="Files fetched at the same time.", minimum=1, maximum=16, flag=False)


def with_environment(options: HubOptions, environ: Mapping[str, str], home: Path) -> HubOptions:
    """Fill in what the hubs' own tools read, where `options` has the default: HF_ENDPOINT, HF_TOKEN, its file ..."""
    usual = HubOptions()
    token_file = Path(environ.get("HF_TOKEN_PATH") or home / ".cache" / "huggingface" / "token")
    found = {
        "huggingface_url": environ.get("HF_ENDPOINT", ""),
        "modelscope_url": environ.get("MODELSCOPE_ENDPOINT", "") or _https(environ.get("MODELSCOPE_DOMAIN", "")),
        "huggingface_token": environ.get("HF_TOKEN", "") or _first_line(token_file),
        "modelscope_token": environ.get("MODELSCOPE_API_TOKEN", ""),
    }
    changes: dict[str, Any] = {
        name: value for name, value in found.items() if value and getattr(options, name) == getattr(usual, name)
    }
    return replace(options, **changes)


def _https(domain: str) -> str:
    return f"https://{domain}" if domain and "://" not in domain else domain


def _first_line(path: Path) -> str:
    try:
        return (path.read_text("utf-8").splitlines() or [""])[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a repository, and what it must hash to (one of the two is known)."""

    path: str
    size_bytes: int
    url: str
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a repository holds at one commit."""

    hub: Literal["hf", "ms"]
    repo: str
    revision: str
    """The commit; where a hub does not name it, what was asked for."""
    files: tuple[RemoteFile, ...]


class Hub(Protocol):
    """A place that models are fetched from."""

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What it, and no other host, is sent along: the token."""
        ...

    async def listing(self, web: "Web", repo: str, revision: str) -> Listing:
        """List the files of a repository.

        Raises:
            ModelNotFoundError: There is no such repository or revision.
            DownloadError: The hub cannot be reached, or says something that is not understood.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFace:
    """Hugging Face's API, as its mirrors speak it too."""

    url: str
    token: str = field(default="", repr=False)

    @property
    def headers(self) -> Mapping[str, str]:
        """The token, where there is one."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def listing(self, web: "Web", repo: str, revision: str) -> Listing:
        """See `Hub.listing`."""
        api = f"{self.url}/api/models/{repo}"
        asked = f"{api}/revision/{quote(revision or 'main', safe='')}"
        commit, _ = await _json(web, asked, repo, revision, lambda answer: str(answer["sha"]))
        files: list[RemoteFile] = []
        page: str | None = f"{api}/tree/{quote(commit, safe='')}?recursive=true"
        for _ in range(MAX_PAGES):
            if page is None:
                return Listing(hub="hf", repo=repo, revision=commit, files=tuple(files))
            found, page = await _json(web, page, repo, revision, lambda answer: self._files(repo, commit, answer))
            files += found
        raise _not_understood(self.url, repo)

    def _files(self, repo: str, commit: str, answer: Any) -> list[RemoteFile]:
        return [
            RemoteFile(
                path=_checked_path(each["path"]),
                size_bytes=int(each["lfs"]["size"] if each.get("lfs") else each["size"]),
                url=f"{self.url}/{repo}/resolve/{quote(commit, safe='')}/{quote(each['path'])}",
                sha256=str(each["lfs"]["oid"]).removeprefix("sha256:") if each.get("lfs") else None,
                git_sha1=None if each.get("lfs") else str(each["oid"]),
            )
            for each in answer
            if each["type"] == "file"
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScope:
    """ModelScope's API."""

    url: str
    token: str = field(default="", repr=False)

    @property
    def headers(self) -> Mapping[str, str]:
        """The token, where there is one; older installations read it from a cookie."""
        if not self.token:
            return {}
        return {"Authorization": f"Bearer {self.token}", "Cookie": f"m_session_id={self.token}"}

    async def listing(self, web: "Web", repo: str, revision: str) -> Listing:
        """See `Hub.listing`. Asked for a commit, it lists no hashes, so the branch or tag is what it is asked for."""
        asked = revision or "master"
        query = urlencode({"Revision": asked, "Recursive": "true"})
        address = f"{self.url}/api/v1/models/{repo}/repo/files?{query}"
        data, _ = await _json(web, address, repo, revision, lambda answer: answer["Data"] | {})
        try:
            latest = data.get("LatestCommitter") or {}
            commit = str(latest.get("Id") or "")
            files = self._files(repo, commit or asked, data["Files"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _not_understood(self.url, repo) from error
        revision = commit or str(latest.get("ShortId") or asked)
        return Listing(hub="ms", repo=repo, revision=revision, files=tuple(files))

    def _files(self, repo: str, commit: str, found: Iterable[Mapping[str, Any]]) -> list[RemoteFile]:
        return [
            RemoteFile(
                path=_checked_path(each["Path"]),
                size_bytes=int(each["Size"]),
                url=f"{self.url}/models/{repo}/resolve/{quote(commit, safe='')}/{quote(each['Path'])}",
                sha256=str(each["Sha256"]).lower() if each.get("Sha256") else None,
            )
            for each in found
            if each["Type"] != "tree"
        ]


def needed_files(listing: Listing) -> tuple[RemoteFile, ...]:
    """Choose what a model needs: weights in safetensors, configuration, tokenizer, template, licence; never a pickle.

    Raises:
        UnsupportedModelError: The repository has no weights in safetensors, or no configuration.
    """
    top = [each for each in listing.files if "/" not in each.path]
    weights = [each for each in top if each.path.endswith(".safetensors")]
    usual = [each for each in weights if each.path.startswith("model")]
    chosen = [
        each
        for each in top
        if each in (usual or weights)
        or (each.path.endswith(NEEDED_SUFFIXES) and not each.path.endswith(".safetensors"))
        or each.path == "LICENSE"
    ]
    if not weights or not any(each.path == "config.json" for each in top):
        pickles = [each.path for each in listing.files if each.path.endswith(PICKLE_SUFFIXES)]
        raise UnsupportedModelError(
            say("{repo} has only pickles ({names}), which can run code.", repo=listing.repo, names=", ".join(pickles))
            if pickles and not weights
            else say("{repo} has no config.json with weights in safetensors.", repo=listing.repo),
            hint=say("Use a repository of the Qwen3 family that has .safetensors files."),
        )
    return tuple(chosen)


def no_hub_reached(name: str, hosts: Iterable[str], reason: str) -> DownloadError:
    """Make the error for a model that is not here while none of the hubs that may have it answers."""
    return DownloadError(
        say("No model hub can be reached ({hosts}): {reason}.", hosts=", ".join(hosts), reason=reason),
        hint=say(
            "Run `qwenops pull {name}` on a machine with internet, copy the folder that `qwenops show {name}` names "
            "there to this machine (`cp -rL`), and `qwenops serve ./folder`; or set a mirror with "
            "QWENOPS_HUB_HUGGINGFACE_URL; or try random:0.6b, which needs no download.",
            name=name,
        ),
    )


def check_architecture(config: bytes, repo: str) -> None:
    """Refuse a model that is no Qwen3 while only its config.json has been fetched.

    Raises:
        ModelLoadError: It is of another architecture.
    """
    try:
        ModelSpec.from_config(json.loads(config))
    except ValueError as error:
        raise ModelLoadError(
            say("The config.json of {repo} is not valid JSON: {error}.", repo=repo, error=error)
        ) from error


def _checked_path(path: Any) -> str:
    """Refuse names that could lead out of the folder that a model is kept in."""
    if isinstance(path, str) and path and path.isprintable() and "\\" not in path and ":" not in path:
        pure = PurePosixPath(path)
        if not pure.is_absolute() and ".." not in pure.parts and str(pure) == path:
            return path
    raise DownloadError(
        say("The hub lists a file with the name {path!r}, which is refused.", path=path),
        hint=say("Do not use this repository; its file names try to leave their folder."),
    )


async def _json(
    web: "Web", address: str, repo: str, revision: str, understand: Callable[[Any], T]
) -> tuple[T, str | None]:
    """Ask a hub; returns what its answer means and the address of the next page."""
    try:
        answer, following = await web.get_json(address)
        return understand(answer), following
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            say(
                "{host} has no model {repo} at revision {revision}.", host=web.host, repo=repo, revision=revision or "-"
            ),
            hint=say("Check the spelling; a private model needs a token (HF_TOKEN or MODELSCOPE_API_TOKEN)."),
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _not_understood(web.host, repo) from error


def _not_understood(host: str, repo: str) -> DownloadError:
    return DownloadError(
        say("{host} lists the files of {repo} in a way that is not understood.", host=host, repo=repo),
        hint=say("Check that the address is a hub's and not a portal's or a proxy's."),
    )
