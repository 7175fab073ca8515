#!/usr/bin/env python3
"""A second verifier of Quorate's public files. It shares no code with the first and needs only Python 3.11.

    verify.py --policy group.policy --statement entry.statement [--group group.toml] [--vm ID] entry.tlog-proof
    verify.py --group group.toml [--vm ID] certificate.bin
    verify.py --orchestrators orchestrators.toml --replicas services.toml --service uid.service alice.answer
    verify.py --batch FILE        one JSON object a line in, one line "CODE MESSAGE" out

An entry in the log of a service needs --replicas and --service too. Exit codes: 0 valid, 1 invalid (the rule that failed
is on standard error), 2 usage or configuration, 3 valid but older than --not-older-than @SECONDS demands. The formats are
those of docs/formats.md; answers of services are in answer.py."""
import argparse, base64, functools, hashlib, itertools, json, re, struct, sys, tomllib

MAGIC, NOBODY = b"quorate-stmt-v1\0", bytes(32)  # how statements begin; the instance of those about no VM
RECEIPT, SERVICE_RECEIPT, SLOT_REPLAYED, SLOT_SAMPLED, DECISION = 0x0010, 0x0011, 0x0801, 0x0802, 0x080A
(VALID, INVALID, UNUSABLE, STALE), (ED25519, COSIGNATURE) = range(4), (1, 4)  # exit codes; types of C2SP keys

class Failed(Exception): """Exit code and the rule that failed."""
def require(holds, rule, detail, code=INVALID):
    if not holds:
        raise Failed(code, f"{rule}: {detail}")

# Ed25519 (RFC 8032), strict: canonical S, R and key, neither point of small order, no cofactor in the equation.
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D, ROOT = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)

def add(a, b):  # in extended coordinates; complete on this curve
    m, n = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    t, z = 2 * D * a[3] * b[3] % P, 2 * a[2] * b[2] % P
    e, f, g, h = n - m, z - t, z + t, n + m
    return e * f % P, g * h % P, f * g % P, e * h % P

@functools.lru_cache(1 << 16)
def point(data):
    """The point with this canonical encoding; None when there is none or it has small order."""
    sign, y = divmod(int.from_bytes(data, "little"), 1 << 255)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * ROOT % P
    if y >= P or x * x % P != square or (x == 0 and sign):
        return None
    x = x if x & 1 == sign else P - x
    found = (x, y, 1, x * y % P)
    eight = functools.reduce(lambda double, _: add(double, double), range(3), found)
    return None if eight[0] == 0 and eight[1] == eight[2] else found

@functools.lru_cache(256)  # the point times 1, 2, 4, 8 and so on
def doubles(of):
    return functools.reduce(lambda found, _: found + [add(found[-1], found[-1])], range(255), [of])

def times(scalar, of):
    return functools.reduce(add, (part for i, part in enumerate(doubles(of)) if scalar >> i & 1), (0, 1, 1, 0))
BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))

@functools.lru_cache(1 << 16)
def is_signed(key, message, signature):
    r, s, a = signature[:32], int.from_bytes(signature[32:], "little"), point(key)
    if len(signature) != 64 or a is None or point(r) is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    x, y, z, _ = add(times(s, BASE), times(k, (P - a[0], a[1], 1, P - a[3])))
    inverse = pow(z, -1, P)
    return (y * inverse % P | (x * inverse % P & 1) << 255).to_bytes(32, "little") == r

# Text. What Python itself cannot read is a ValueError, which `judge` takes for invalid.
def unbase64(text, size=None):
    data = base64.b64decode(text, validate=True)
    require(base64.b64encode(data).decode() == text, "DecodeError", f"not canonical base64: {text[:50]!r}")
    require(size in (None, len(data)), "DecodeError", f"not {size} bytes in base64")
    return data

def decimal(text):
    require(re.fullmatch(r"0|[1-9][0-9]{0,19}", text) and int(text) < 2**64, "DecodeError", "decimal")
    return int(text)

def check_name(name):
    bad = any(c.isspace() or c == "+" or ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
    require(name and not bad, "DecodeError", f"key name {name!r}")

# C2SP: verifier keys, checkpoints, signed notes, policies.
def verifier_key(text):
    name, number, key = (text.split("+", 2) + ["", ""])[:3]
    data = unbase64(key, 33)
    require(data[0] in (ED25519, COSIGNATURE) and point(data[1:]), "DecodeError", "verifier key is refused")
    check_name(name)
    key_id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    require(number == key_id.hex(), "DecodeError", "id does not match name and key")
    return name, data[0], data[1:], key_id

def checkpoint(text):
    lines = text.split("\n")
    require(len(lines) >= 4 and lines.pop() == "" and lines[0] and all(lines[3:]), "DecodeError", "checkpoint")
    return lines[0], decimal(lines[1]), unbase64(lines[2], 32)

def read_note(note):
    end = note.rfind("\n\n")
    require(end >= 0 and note[end + 2 :].endswith("\n"), "DecodeError", "note has no signatures or final newline")
    require(len(note.encode()) <= 512 * 1024, "MessageTooLarge", "note")
    text, signatures, lines = note[: end + 1], note[end + 2 : -1].split("\n"), []
    require(not re.search(r"[\x00-\x09\x0b-\x1f]", text), "DecodeError", "control character in the note")
    for line in signatures:
        dash, name, data = (line.split(" ", 2) + ["", ""])[:3]
        check_name(name)
        lines.append((name, unbase64(data)[:4], unbase64(data)[4:]))
        good = dash == "\u2014" and lines[-1][2] and len(lines) <= 128
        require(good, "DecodeError", "signature line has no dash or too few bytes, or is one too many")
    return text, lines

def signers(text, lines, keys):
    """Index of each key that signed, and its time. A bad line of a known key refuses the note."""
    found = {}
    for (name, key_id, data), (index, key) in itertools.product(lines, enumerate(keys)):
        if (name, key_id) == (key[0], key[3]):
            time, message = None, text
            if key[1] == COSIGNATURE:
                require(len(data) == 72 and data[0] < 128, "DecodeError", "length or time of a cosignature")
                time, data = int.from_bytes(data[:8], "big"), data[8:]
                message = f"cosignature/v1\ntime {time}\n{text}"
            require(is_signed(key[2], message.encode(), data), "BadSignature", f"of {name}")
            found.setdefault(index, time)
    return found

def read_policy(data):
    """Logs, witnesses, entries (need, members or witness), place of the quorum's entry."""
    logs, witnesses, entries, names, listed, quorum = [], [], [], {b"none": None}, [], []
    for line in data.split(b"\n"):
        words = [word for word in re.split(rb"[ \t]", line) if word] or [b"#"]
        if words[0] == b"log" and len(words) in (2, 3):
            logs.append(verifier_key(words[1].decode()))
        elif words[0] == b"witness" and len(words) in (3, 4):
            names[words[1]] = len(entries)
            entries.append((None, len(witnesses)))
            witnesses.append(verifier_key(words[2].decode()))
        elif words[0] == b"group" and len(words) >= 4:
            members = [names.get(word) for word in words[3:]]
            need = decimal({b"all": str(len(members)), b"any": "1"}.get(words[2]) or words[2].decode())
            listed += members
            require(None not in members and 1 <= need <= len(members), "BadConfig", f"group {words[1]!r}")
            names[words[1]] = len(entries)
            entries.append((need, members))
        elif words[0] == b"quorum" and len(words) == 2:
            quorum.append(names[words[1]])
        else:
            require(words[0].startswith(b"#"), "BadConfig", "not a log, witness, group or quorum line")
    keys = [[key[2] for key in logs], [key[2] for key in witnesses]]
    good = all(len(set(each)) == len(each) <= 1024 for each in (*keys, listed)) and len(quorum) == 1
    good &= len(names) == len(entries) + 1 <= 1025 and all(key[1] == COSIGNATURE for key in witnesses)
    good &= len(data) <= 512 * 1024 and not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", data)
    require(good, "BadConfig", "a key, name or member occurs twice, no quorum, control characters, or too large")
    return logs, witnesses, entries, quorum[0]

def evaluate(policy, text, lines, code=INVALID):
    """The head and who cosigned it when, once the policy is satisfied."""
    logs, witnesses, entries, quorum = policy
    head, satisfied = checkpoint(text), []
    trusted = {logs[index][0] for index in signers(text, lines, logs)}
    require(not logs or head[0] in trusted, "SignerNotMember", f"no trusted log signed for {head[0]}", code)
    cosigned = signers(text, lines, witnesses)
    for need, part in entries:
        satisfied.append(part in cosigned if need is None else sum(satisfied[i] for i in part) >= need)
    require(quorum is None or satisfied[quorum], "QuorumNotReached", f"{len(cosigned)} cosigners signed", code)
    return head, [(witnesses[index][0], time) for index, time in cosigned.items()]

# Quorate: groups, statements, proofs, certificates.
def read_group(data):
    """Name, id, epoch, vote keys, quorum and f of a group file. What the id covers is not looked at otherwise."""
    file = tomllib.loads(data.decode())
    name, epoch, f, members = (file.pop(key) for key in ("name", "epoch", "f", "members"))
    genesis, stated, operators, hosts = (file.pop(key, []) for key in ("genesis", "quorum", "operators", "hosts"))
    members = [[m.pop(key) for key in ("name", "vote_key", "cosigner_key", "transport_key")] + [*m] for m in members]
    hosts = [[host.pop(key) for key in ("name", "key")] + [*host] for host in hosts]
    keys = [key for _, *own in members + hosts for key in own] + operators
    quorum, names = (len(members) + f) // 2 + 1, [part[0] for part in members + hosts]
    good = len(set(names)) == len(names) and all(re.fullmatch(r"[a-z0-9-]{1,64}", each) for each in (name, *names))
    good = good and not file and len(set(keys)) == len(keys) and all(point(bytes.fromhex(key)) for key in keys)
    good = good and all(bytes.fromhex(text).hex() == text for text in (*keys, genesis or ""))
    good = good and 0 <= 3 * f < len(members) <= 64 and stated in ([], quorum) and bool(genesis) == (epoch > 0)
    require(good, "BadConfig", "group file")
    borsh = lambda part: struct.pack("<I", len(part[0])) + part[0].encode() + bytes.fromhex("".join(part[1:]))
    encoded = borsh([name]) + struct.pack("<BQBQI", 1, epoch, 0, f, len(members)) + b"".join(map(borsh, members))
    encoded += struct.pack("<I", len(operators)) + bytes.fromhex("".join(operators))
    encoded += struct.pack("<I", len(hosts)) + b"".join(map(borsh, hosts))
    digest, votes = hashlib.sha256(encoded).digest(), [bytes.fromhex(member[1]) for member in members]
    return name, bytes.fromhex(genesis) if genesis else digest, epoch, votes, quorum, f

def read_statement(data):
    """Kind, group, epoch, instance, seq, body, and the bytes behind."""
    require(len(data) >= 102 and data[:16] == MAGIC, "DecodeError", "not a statement of version 1")
    *scope, length = struct.unpack("<H32sQ32sQI", data[16:102])
    require(length <= min(65536, len(data) - 102), "DecodeError", "length of the body")
    return *scope, data[102 : 102 + length], data[102 + length :]

def check_body(kind, instance, seq, body):
    """Length, and canonical keys inside: of a slot its host, of a decision source and destination, or the host."""
    decision = {b"\0": (105, 41, 73), b"\1": (113, 81)}.get(body[40:41], (0,))
    forms = {SLOT_REPLAYED: (364, 332), SLOT_SAMPLED: (364, 332), RECEIPT: (144,), SERVICE_RECEIPT: (152,)}
    size, *keys = (forms | {DECISION: decision})[kind]
    good = len(body) == size and all(point(body[at : at + 32]) for at in keys)
    ends = kind not in (RECEIPT, SERVICE_RECEIPT) or int.from_bytes(body[-48:-40], "little") == seq + 1
    require(good and ends, "DecodeError", f"body of a statement of kind 0x{kind:04x}, or its log ends elsewhere")
    require(kind != RECEIPT or instance == NOBODY, "WrongVm", instance.hex())

def fold(leaf, index, size, path):
    """Root of the tree to which the path leads (RFC 9162, 2.1.3.2), and of the tree that ends with the leaf."""
    node, last, digest = index, size - 1, hashlib.sha256(b"\0" + leaf).digest()
    ending = digest
    for sibling in path:
        require(last > 0, "ProofInvalid", "path is too long")
        is_right = node & 1 or node == last
        ending = hashlib.sha256(b"\1" + sibling + ending).digest() if is_right else ending
        digest = hashlib.sha256(b"\1" + (sibling + digest if is_right else digest + sibling)).digest()
        while is_right and node and not node & 1:
            node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    require(last == 0, "ProofInvalid", "path is too short")
    return digest, ending

def read_proof(data):
    head, gap, note = data.decode().partition("\n\n")
    first, *lines = head.split("\n")
    require(gap and first == "c2sp.org/tlog-proof@v1", "DecodeError", "not a tlog-proof of version 1")
    if lines and lines[0].startswith("extra "):
        require(len(unbase64(lines.pop(0)[6:])) <= 256 * 1024, "MessageTooLarge", "extra data")
    require(lines and lines[0].startswith("index ") and len(lines) <= 65, "DecodeError", "index or path")
    return decimal(lines[0][6:]), [unbase64(line, 32) for line in lines[1:]], *read_note(note)

def check_proof(trust, statement, data, not_before):
    """The leaf is in the log of its VM, of the group, or of a service, under a head that satisfies the policy."""
    index, path, text, lines = read_proof(data)
    policy, group, vm = trust["policy"], trust["group"], trust["vm"]
    require(policy and statement is not None, "Usage", "a proof needs --policy and --statement", UNUSABLE)
    kind, of, epoch, instance, place, body, rest = read_statement(statement)
    good = not rest and kind in (SLOT_REPLAYED, RECEIPT, SERVICE_RECEIPT)
    require(good, "WrongDomain", f"bytes at the end, or kind 0x{kind:04x}")
    check_body(kind, instance, place, body)
    leaf, origin = statement, f"quorate.vm/{instance.hex()}"
    if kind == RECEIPT:
        group, vm, name = trust["log"], vm or NOBODY, "log"
    elif kind == SERVICE_RECEIPT:
        group, vm, name = trust["replicas"], instance, trust["services"].get(instance)
    if kind != SLOT_REPLAYED:
        require(group and name, "Usage", "a receipt needs its group and service: its leaf names none", UNUSABLE)
        leaf, origin = body[-144:-80] + body[-40:], f"{group[0]}/{name}"
    require(vm in (None, instance), "WrongVm", instance.hex())
    require(not group or (of == group[1] and epoch <= group[2]), "WrongCluster", f"{of.hex()}, epoch {epoch}")
    (got, size, root), cosigned = evaluate(policy, text, lines)
    require(got == origin, "WrongVm", f"head is of {got}, expected {origin}")
    require(index == place and index < size, "ProofInvalid", f"slot {place} is at index {index} of {size}")
    found, log_root = fold(leaf, index, size, path)
    good = found == root and (leaf is statement or log_root == body[-80:-48])
    require(good, "ProofInvalid", "another root, of this log or of the one that ends here")
    old = {name for name, _ in cosigned} - {name for name, time in cosigned if time >= not_before}
    lines = [line for line in lines if line[0] not in old]
    require(lines, "Stale", "all signatures are older than demanded", STALE)
    evaluate(policy, text, lines, STALE)
    return f"index {index} of {size} in {origin}, cosigned by {len(cosigned)}"

def check_votes(group, need, data):
    """A statement of the group in its epoch, and the signatures of so many members."""
    kind, of, epoch, instance, seq, body, rest = read_statement(data)
    check_body(kind, instance, seq, body)
    require((of, epoch) == group[1:3], "WrongCluster", f"{of.hex()}, epoch {epoch}")
    message, count, last, keys = data[: 102 + len(body)], len(rest) // 66, -1, group[3]
    for at in range(4, len(rest), 66):
        signer = int.from_bytes(rest[at : at + 2], "little")
        require(last < signer < len(keys), "SignerOutOfOrder", signer)
        require(is_signed(keys[signer], message, rest[at + 2 : at + 66]), "BadSignature", signer)
        last = signer
    require(count >= need, "QuorumNotReached", f"{count} of {need}")
    return f"kind 0x{kind:04x}, seq {seq}, {count} signatures"

def check_certificate(trust, data):  # one statement, of no VM where none is named, signed by a quorum
    kind, _, _, instance, _, _, rest = read_statement(data)
    count = int.from_bytes(rest[:4], "little")
    require(len(rest) == 4 + count * 66 and count <= 64, "DecodeError", "list of signatures")
    kinds = (RECEIPT, SERVICE_RECEIPT, SLOT_REPLAYED, SLOT_SAMPLED, DECISION)
    require(kind in kinds, "WrongDomain", f"0x{kind:04x}")
    group = trust["log" if kind in (RECEIPT, DECISION) else "group"]
    require(group, "Usage", "a certificate needs --group", UNUSABLE)
    require(instance == (trust["vm"] or NOBODY), "WrongVm", instance.hex())
    return check_votes(group, group[4], data)

def judge(file, name="", policy=None, statement=None, vm=None, not_before=0, service=None, **groups):
    import answer  # which needs what is above
    try:
        trust = {role: read_group(groups[role]) if groups.get(role) else None for role in ("group", "replicas")}
        trust["log"] = read_group(groups["orchestrators"]) if groups.get("orchestrators") else trust["group"]
        trust["policy"] = policy and read_policy(policy)
        trust["services"] = dict(map(answer.read_service, service or []))
    except (Failed, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        return UNUSABLE, f"BadConfig: {error}"
    try:
        trust["vm"] = vm and bytes.fromhex(vm.decode())
        if name.endswith(".answer") or file.startswith(answer.MAGIC):
            return VALID, answer.check_answer(trust, file)
        if policy is None and statement is None:
            return VALID, check_certificate(trust, file)
        return VALID, check_proof(trust, statement, file, not_before)
    except Failed as failed:
        return failed.args
    except ValueError as error:
        return INVALID, f"DecodeError: {error}"

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("policy", "statement", "group", "orchestrators", "replicas", "service"):
        parser.add_argument(f"--{name}", type=argparse.FileType("rb"), action="append" if name == "service" else None)
    parser.add_argument("--vm", type=str.encode)
    parser.add_argument("--not-older-than", dest="not_before", default="@0", type=lambda text: int(text[1:]))
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("file", type=argparse.FileType("rb"), help="- for standard input")
    given = vars(parser.parse_args())
    if given.pop("batch"):
        bytes_of = lambda v: base64.b64decode(v) if isinstance(v, str) else [*map(bytes_of, v)]
        for case in map(json.loads, given["file"]):
            plain = {key: case.pop(key) for key in ("name", "not_before") if key in case}
            print(*judge(**plain, **{key: bytes_of(value) for key, value in case.items()}))
        return VALID
    read = lambda v: v.read() if hasattr(v, "read") else [file.read() for file in v] if isinstance(v, list) else v
    code, message = judge(name=given["file"].name, **{key: read(value) for key, value in given.items()})
    print(message, file=sys.stdout if code == VALID else sys.stderr)
    return code

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    import verify  # under its own name, as answer.py knows it
    sys.exit(verify.main())
