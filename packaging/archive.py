"""What does a node get, and how does it become an archive that is the same every time? For packaging/tarball and /oci."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tomllib
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = "usr/share/neap/models"
DOCUMENTS = "usr/share/doc/neap"
# How a file of config/ is called where systemd looks for it, when it is there.
SYSTEM = {
    "neap.service": "usr/lib/systemd/system/neap.service",
    "neap.sysusers": "usr/lib/sysusers.d/neap.conf",
    "neap.tmpfile": "usr/lib/tmpfiles.d/neap.conf",
}
# e_machine of ELF: architecture and variant as the image specification spells them.
PLATFORMS = {62: ("amd64", None), 183: ("arm64", "v8"), 40: ("arm", "v7")}
PT_INTERP = 3


class Refused(Exception):
    """One sentence for a person."""


def main(body):
    """Runs `body`; what it refuses becomes a sentence and an exit code."""
    try:
        body()
    except Refused as refused:
        print(f"{Path(sys.argv[0]).name}: {refused}", file=sys.stderr)
        sys.exit(65)
    except OSError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(74)


def version():
    """The version of the package, as Cargo.toml has it."""
    with open(ROOT / "Cargo.toml", "rb") as file:
        return tomllib.load(file)["package"]["version"]


def commit():
    """The commit, "-dirty" after it when files differ from it, or nothing outside a repository."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def seconds():
    """The time that every file gets: SOURCE_DATE_EPOCH, else the commit's, never that of the run."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        words = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        given = done.stdout.strip() if done.returncode == 0 else "0"
    return int(given)


def program(path):
    """What kind of program a file is: (architecture, variant, the loader that it asks for or None)."""
    data = Path(path).read_bytes()
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise Refused(f"{path} is no little-endian ELF program")
    wide = data[4] == 2
    machine = struct.unpack_from("<H", data, 18)[0]
    if machine not in PLATFORMS:
        raise Refused(f"{path} is for machine {machine}; known are amd64, arm64 and armv7")
    table = struct.unpack_from("<Q", data, 32)[0] if wide else struct.unpack_from("<I", data, 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    loader = None
    for at in range(table, table + size * count, size):
        if struct.unpack_from("<I", data, at)[0] == PT_INTERP:
            offset = struct.unpack_from("<Q", data, at + 8)[0] if wide else struct.unpack_from("<I", data, at + 4)[0]
            loader = data[offset:data.index(b"\0", offset)].decode()
    return (*PLATFORMS[machine], loader)


def crates(path):
    """The crates that a binary says it was made of (section .dep-v0 of cargo auditable): {(name, version)}, or None."""
    data = Path(path).read_bytes()
    wide = data[4] == 2
    table = struct.unpack_from("<Q", data, 40)[0] if wide else struct.unpack_from("<I", data, 32)[0]
    size, count, names = struct.unpack_from("<HHH", data, 58 if wide else 46)
    place = lambda index: struct.unpack_from("<QQ" if wide else "<II", data, table + size * index + (24 if wide else 16))
    for index in range(count):
        start = place(names)[0] + struct.unpack_from("<I", data, table + size * index)[0]
        if data[start:start + 8] == b".dep-v0\0":
            offset, length = place(index)
            packages = json.loads(zlib.decompress(data[offset:offset + length]))["packages"]
            return {(package["name"], package["version"]) for package in packages if not package.get("root")}
    return None


def committed(folder):
    """The files of a folder: those that git has, so that nothing else gets into an archive; all outside a repository."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--", folder]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in (ROOT / folder).rglob("*") if path.is_file()]


def model_files():
    """Models with their samples and golden results, without the scripts that make them."""
    files = {}
    for path in committed("models"):
        below = path.relative_to(ROOT / "models")
        if below.parts[0] != "make":
            files[f"{MODELS}/{below}"] = (path.read_bytes(), 0o644)
    return files


def node_files(binary):
    """Everything that a node installs: path in the root file system → (bytes, mode)."""
    files = {"usr/bin/neap": (Path(binary).read_bytes(), 0o755), **model_files()}
    add = lambda name, path: files.__setitem__(name, (Path(path).read_bytes(), 0o644))
    add("etc/neap/neap.toml", ROOT / "config/neap.toml")
    add("usr/include/neap_load.h", ROOT / "include/neap_load.h")
    for path in committed("config"):
        below = path.relative_to(ROOT / "config")
        if str(below) in SYSTEM:
            add(SYSTEM[str(below)], path)
        elif str(below) != "neap.toml":
            add(f"{DOCUMENTS}/examples/{below}", path)
    for path in [*committed("docs"), ROOT / "README.md", ROOT / "LICENSE", ROOT / "packaging/INSTALL.md"]:
        add(f"{DOCUMENTS}/{path.name}", path)
    return files


def tar(files, folders=(), top=""):
    """A tar archive: sorted, owned by root (or who `folders` says), one time for all. `folders`: (path, mode, owner)."""
    entries = {}
    for name, mode, owner in folders:
        entries[name] = (None, mode, owner)
    for name, (data, mode) in files.items():
        entries[name] = (data, mode, 0)
        for parent in list(Path(name).parents)[:-1]:
            entries.setdefault(str(parent), (None, 0o755, 0))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        if top:
            archive.addfile(member(top, None, 0o755, 0))
        for name in sorted(entries):
            data, mode, owner = entries[name]
            archive.addfile(member(f"{top}/{name}" if top else name, data, mode, owner), io.BytesIO(data or b""))
    return buffer.getvalue()


def member(name, data, mode, owner):
    """The head of one file, or of a folder when there is no data."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
    info.size, info.mode, info.mtime = len(data or b""), mode, seconds()
    info.uid = info.gid = owner
    return info


def compressed(data):
    """gzip without a name and without the time of the run."""
    return gzip.compress(data, compresslevel=9, mtime=0)
