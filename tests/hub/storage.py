"""What a Hub keeps: repositories with branches of commits, and large files by their checksum."""

import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatch

_LARGE = ("*.arrow", "*.bin", "*.gz", "*.npy", "*.onnx", "*.parquet", "*.pickle", "*.pkl", "*.pt", "*.pth")
_LARGE += ("*.safetensors", "*.model", "*.h5", "*.zip")
_LARGE_BYTES = 10_000_000
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LARGE).encode()


@dataclass(frozen=True)
class File:
    """A file of a commit.

    Attributes:
        content: Its bytes.
        is_large: Kept as LFS object, and known by its SHA-256 instead of git's hash.
    """

    content: bytes
    is_large: bool

    @property
    def blob(self) -> str:
        """Git's hash, of a large file that of the pointer to it."""
        return git_hash(self.pointer if self.is_large else self.content)

    @property
    def oid(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if self.is_large else self.blob

    @property
    def pointer(self) -> bytes:
        digest = hashlib.sha256(self.content).hexdigest()
        lines = "version https://git-lfs.github.com/spec/v1", f"oid sha256:{digest}", f"size {len(self.content)}"
        return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True)
class Commit:
    oid: str
    message: str
    files: dict[str, File]


@dataclass
class Repo:
    """A repository.

    Attributes:
        kind: "model" or "dataset".
        branches: The commits of each branch, from the first to the last.
    """

    kind: str
    owner: str
    name: str
    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = []
        self.commit("main", "initial commit", {".gitattributes": File(GITATTRIBUTES, False)})

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def path(self) -> str:
        """Of its page."""
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    @property
    def files(self) -> dict[str, File]:
        """What the main branch holds."""
        return self.branches["main"][-1].files

    def find(self, revision: str) -> Commit | None:
        """The last commit of a branch, or a commit by its hash."""
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for branch in self.branches.values() for commit in branch]
        return next((commit for commit in commits if commit.oid == revision), None)

    def commit(self, branch: str, message: str, files: dict[str, File]) -> Commit:
        history = self.branches[branch]
        content = "".join(f"{path} {file.blob}\n" for path, file in sorted(files.items()))
        parent = history[-1].oid if history else ""
        commit = Commit(git_hash(f"{self.path} {parent} {message}\n{content}".encode()), message, files)
        history.append(commit)
        return commit


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub takes a file as LFS object: by its name, its size or its first bytes."""
    return size > _LARGE_BYTES or b"\0" in sample or any(fnmatch(path.split("/")[-1], name) for name in _LARGE)
