"""Mail servers whose packages conflict with Postfix: OpenSMTPD, sendmail and Dovecot's LMTP server.

`.ci/run` unpacks the packages of each server into a folder, and does not install them. Each server
runs in its own mount namespace. In this namespace, an overlay shows the unpacked files in the
places that the server expects. The namespace ends with the server's processes, so no mount remains.
"""

import re
import shlex
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from real_servers import REFUSED, SIZE_LIMIT, RealServer, Unavailable

UNPACKED = Path("/opt/mail-servers")
"""The folder that `.ci/run` unpacks the packages into. It is not below a folder of the overlays,
because the layers of an overlay must not contain each other."""


_SLOW = {"20 MB": "the tests with Postfix and Exim are enough for 20 MB"}


class UnpackedServer(RealServer):
    """A server from unpacked packages.

    Attributes:
        tree: The folder with the unpacked files.
    """

    package: ClassVar[str]

    def _find(self) -> str:  # type: ignore[override]
        self.tree = UNPACKED / self.package
        if not (self.tree / "usr").is_dir():
            raise Unavailable(f"{self.name} is not in {self.tree}; .ci/run unpacks it")
        return self.name

    def setup(self) -> list[list[str]]:
        """Return the commands that run in the mount namespace. The last command is the server."""
        raise NotImplementedError

    def command(self) -> list[str]:
        overlay = ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={self.tree}/usr:/usr"]
        *earlier, last = map(shlex.join, [[*overlay, "/usr"], *self.setup()])
        script = "\n".join(["set -e", *earlier, f"exec {last}"])
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


class OpenSMTPD(UnpackedServer):
    """OpenSMTPD, which keeps accepted messages in its queue."""

    name = "OpenSMTPD"
    package = "opensmtpd"
    connected = re.compile(r"^(\w{16}) smtp connected ", re.MULTILINE)
    disconnected = re.compile(r"^(\w{16}) smtp disconnected ", re.MULTILINE)
    logs_ports = False
    complaint = re.compile(
        r'result="(?:500|501|502|503|421) |disconnected reason=(?!quit)', re.IGNORECASE
    )
    missing: ClassVar = _SLOW | {
        "tls": "OpenSMTPD 6.8 of Debian 12 finds no private key with OpenSSL 3",
        "starttls": "OpenSMTPD 6.8 of Debian 12 finds no private key with OpenSSL 3",
        "transaction": "OpenSMTPD does not support PIPELINING",
        "stream": "OpenSMTPD does not support PIPELINING",
        "window": "OpenSMTPD does not support PIPELINING",
        "smtputf8": "OpenSMTPD does not support SMTPUTF8",
        "dot alone": "OpenSMTPD refuses a message without a header",
        "short timeout": "OpenSMTPD's time limit for a command is fixed at 5 minutes",
        "strict": "OpenSMTPD's limits of sizes and errors apply to all ports",
    }

    def configure(self) -> None:
        spool, empty = self.folder / "spool", self.folder / "layer" / "spool" / "smtpd"
        spool.mkdir(mode=0o711)
        spool.chmod(0o711)
        empty.mkdir(parents=True)
        for name in ("passwd", "group"):
            lines = [Path("/etc", name).read_text()]
            for number, user in enumerate(("opensmtpd", "opensmtpq"), 7001):
                rest = f"{number}::/var/lib/opensmtpd/empty:/bin/false" if name == "passwd" else ""
                lines.append(f"{user}:x:{number}:{rest}\n")
            (self.folder / name).write_text("".join(lines))
        # OpenSMTPD looks up the client's name before its greeting. This file prevents DNS queries.
        (self.folder / "resolv.conf").write_text("lookup file\n")
        chains = {"no data": ", refuse_data", "no body": ", refuse_body"}
        text = [_OPENSMTPD.format(refused=REFUSED, size=SIZE_LIMIT)]
        for name, port in self.ports.items():
            text.append(
                f'filter "{name}" chain {{ refuse_mail, refuse_rcpt{chains.get(name, "")} }}\n'
                f'listen on 127.0.0.1 port {port} hostname server.example filter "{name}"\n'
            )
        (self.folder / "smtpd.conf").write_text("".join(text))

    def setup(self) -> list[list[str]]:
        layers = f"lowerdir={self.folder}/layer:{self.tree}/var:/var"
        return [
            ["mount", "-t", "overlay", "overlay", "-o", layers, "/var"],
            ["mount", "--bind", f"{self.folder}/spool", "/var/spool/smtpd"],
            ["mount", "--bind", f"{self.folder}/passwd", "/etc/passwd"],
            ["mount", "--bind", f"{self.folder}/group", "/etc/group"],
            ["mount", "--bind", f"{self.folder}/resolv.conf", "/etc/resolv.conf"],
            ["mount", "-t", "tmpfs", "tmpfs", "/run"],
            # With `-P mta`, the server accepts messages and does not relay them.
            ["/usr/sbin/smtpd", "-d", "-f", f"{self.folder}/smtpd.conf", "-P", "mta"],
        ]

    def log(self) -> str:
        output = self.folder / "output"
        return output.read_text(errors="replace") if output.exists() else ""

    def messages(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.folder / "spool/queue").glob("*/*/message")]

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for file in (self.folder / "spool/queue").glob("*/*/message"):
            body = file.read_bytes().partition(b"\n\n")[2]
            for envelope in file.parent.glob("?" * 16):
                lines = envelope.read_text().split("\n")
                fields = dict(line.split(": ", 1) for line in lines if ": " in line)
                found.append((fields.get("sender", ""), fields["rcpt"], body))
        return found


_OPENSMTPD = """\
smtp max-message-size {size}
smtp limit max-mails 10000
filter refuse_mail phase mail-from match mail-from regex "^<?{refused}" reject "550 name refused"
filter refuse_rcpt phase rcpt-to match rcpt-to regex "^<?{refused}" reject "550 name refused"
filter refuse_data phase data match ! auth reject "550 no data here"
filter refuse_body phase commit match ! auth reject "550 no body here"
action keep relay host smtp://127.0.0.1:9
match from any for any action keep
"""


class Sendmail(UnpackedServer):
    """Sendmail's daemon, which keeps accepted messages in its queue."""

    name = "sendmail"
    package = "sendmail"
    connected = re.compile(r" sendmail\[(\d+)\]: \w+: --- 220 \S+ ESMTP ")
    disconnected = re.compile(r" sendmail\[(\d+)\]: \w+: --- (?:221|421) ")
    logs_ports = False
    complaint = re.compile(
        r": --- (?:50[012]|421 (?!.*Lost input channel))|attack"
        r"|lost input channel (?!.*after startup)"
    )
    missing: ClassVar = _SLOW | {
        "window": "sendmail does not support CHUNKING",
        "smtputf8": "sendmail of Debian 12 does not support SMTPUTF8",
        "short timeout": "sendmail's time limits apply to all ports",
        "strict": "sendmail's limits of sizes and errors apply to all ports",
    }

    def configure(self) -> None:
        (self.folder / "queue").mkdir(mode=0o700)
        (self.folder / "layer").mkdir()
        (self.folder / "layer" / "log").touch()  # the place of the socket in /dev
        self.certificate.chmod(0o600)
        (self.folder / "authority.pem").write_bytes(self.authority)
        (self.folder / "switch").write_text("hosts files\naliases files\npasswd files\n")
        # sendmail waits a minute for the full name of this host if it finds none.
        names = f"127.0.0.1 localhost\n127.0.0.1 server.example {socket.gethostname()}\n"
        (self.folder / "hosts").write_text(names)
        daemons = [
            f"DAEMON_OPTIONS(`Port={port}, Addr=127.0.0.1, Name={name.replace(' ', '')}"
            f"{', M=s' if name == 'tls' else ''}')dnl\n"
            for name, port in self.ports.items()
        ]
        text = _SENDMAIL.replace("DAEMONS\n", "".join(daemons))
        text = text.replace("REFUSED_PREFIX", REFUSED)
        (self.folder / "sendmail.mc").write_text(text.replace("SIZE_LIMIT", str(SIZE_LIMIT)))

    def start(self) -> None:
        # sendmail logs to /dev/log, the socket of syslog.
        (self.folder / "syslog").unlink(missing_ok=True)
        self._syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._syslog.bind(str(self.folder / "syslog"))
        (self.folder / "syslog").chmod(0o666)
        threading.Thread(target=self._write_log, args=[self._syslog], daemon=True).start()
        super().start()

    def stop(self) -> None:
        super().stop()
        self._syslog.shutdown(socket.SHUT_RDWR)

    def _write_log(self, syslog: socket.socket) -> None:
        with syslog, (self.folder / "log").open("ab", buffering=0) as log:
            while record := syslog.recv(65536):
                log.write(record.rstrip(b"\n\0") + b"\n")

    def setup(self) -> list[list[str]]:
        macros = "/usr/share/sendmail/cf/"
        m4 = ["m4", f"-D_CF_DIR_={macros}", f"{macros}m4/cf.m4", "/mnt/sendmail.mc"]
        program = ["/usr/libexec/sendmail/sendmail", "-C/mnt/sendmail.cf", "-bD"]
        return [
            # sendmail uses no certificate below a folder that every user can write, such as /tmp.
            # The overlay of /dev also hides /dev/shm.
            ["mount", "--bind", str(self.folder), "/mnt"],
            ["mount", "--bind", "/mnt/hosts", "/etc/hosts"],
            ["mount", "-t", "overlay", "overlay", "-o", "lowerdir=/mnt/layer:/dev", "/dev"],
            ["mount", "--bind", "/mnt/syslog", "/dev/log"],
            ["sh", "-c", f"{shlex.join(m4)} >/mnt/sendmail.cf 2>/dev/null"],
            # At this level, sendmail logs each command and each reply.
            [*program, "-OLogLevel=15"],
        ]

    def messages(self) -> list[bytes]:
        return [b"\n" + content for _, content in self._queued()]

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for lines, content in self._queued():
            sender = next(line[1:].strip("<>") for line in lines if line.startswith("S"))
            recipients = (re.fullmatch(r"R[^:]*:<(.*)>", line) for line in lines)
            found += [(sender, match[1], content) for match in recipients if match]
        return found

    def _queued(self) -> Iterator[tuple[list[str], bytes]]:
        for file in (self.folder / "queue").glob("qf*"):
            lines = file.read_text(errors="replace").split("\n")
            yield lines, file.with_name("df" + file.name[2:]).read_bytes()


_SENDMAIL = """\
divert(0)dnl
OSTYPE(`linux')dnl
define(`confDELIVERY_MODE', `q')dnl
define(`QUEUE_DIR', `/mnt/queue')dnl
define(`confPID_FILE', `/mnt/pid')dnl
define(`STATUS_FILE', `/mnt/status')dnl
define(`ALIAS_FILE', `')dnl
define(`confDOMAIN_NAME', `server.example')dnl
define(`confMAX_MESSAGE_SIZE', `SIZE_LIMIT')dnl
define(`confSERVER_CERT', `/mnt/certificate.pem')dnl
define(`confSERVER_KEY', `/mnt/certificate.pem')dnl
define(`confCACERT', `/mnt/authority.pem')dnl
define(`confCACERT_PATH', `/mnt')dnl
define(`confSERVICE_SWITCH_FILE', `/mnt/switch')dnl
define(`confTO_IDENT', `0s')dnl
define(`confREFUSE_LA', `1000')dnl
define(`confDELAY_LA', `1000')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`promiscuous_relay')dnl
FEATURE(`no_default_msa')dnl
DAEMONS
MAILER(smtp)dnl
LOCAL_RULESETS
Krefused regex -a@REFUSED ^<?REFUSED_PREFIX
SLocal_check_mail
R$*\t$: $(refused $1 $)
R$*@REFUSED\t$#error $@ 5.1.1 $: "550 name refused"
SLocal_check_rcpt
R$*\t$: $(refused $1 $)
R$*@REFUSED\t$#error $@ 5.1.1 $: "550 name refused"
Scheck_data
R$*\t$: $&{daemon_name}
Rnodata\t$#error $@ 5.7.1 $: "550 no data here"
Scheck_eom
R$*\t$: $&{daemon_name}
Rnobody\t$#error $@ 5.7.1 $: "550 no body here"
"""


class Dovecot(UnpackedServer):
    """Dovecot's LMTP server, which delivers to a Maildir for each recipient."""

    name = "Dovecot"
    package = "dovecot"
    scheme = "lmtp"
    connected = re.compile(r" lmtp\((\d+)\): Info: Connect from ")
    disconnected = re.compile(r" lmtp\((\d+)\): Info: Disconnect from ")
    logs_ports = False
    complaint = re.compile(r"Disconnect from (?!.*(?:Logged out|state=GREETING))|Error|Fatal")
    missing: ClassVar = _SLOW | {
        "SMTP": "Dovecot's server supports LMTP only",
        "window": "the mode window does not exist for LMTP",
        "refused senders": "Dovecot's LMTP server accepts every sender",
        "long error delay": "Dovecot's LMTP server does not delay replies",
        "short timeout": "Dovecot's LMTP server has no time limit for a command",
        "no data": "Dovecot's LMTP server refuses no message at DATA",
        "no body": "Dovecot's LMTP server refuses no message after the body",
        "strict": "Dovecot's LMTP server has no limits of sizes and errors",
    }

    def configure(self) -> None:
        for name in ("run", "state", "mail"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "mail", "mail")
        (self.folder / "refused").write_text("refused:::::::\n")
        listeners = "".join(
            f"  inet_listener {name} {{\n    address = 127.0.0.1\n    port = {port}\n"
            f"    ssl = {'yes' if name == 'tls' else 'no'}\n  }}\n"
            for name, port in self.ports.items()
        )
        text = _DOVECOT.replace("LISTENERS\n", listeners).replace("FOLDER", str(self.folder))
        (self.folder / "dovecot.conf").write_text(text.replace("REFUSED_PREFIX", REFUSED))

    def setup(self) -> list[list[str]]:
        return [["/usr/sbin/dovecot", "-F", "-c", f"{self.folder}/dovecot.conf"]]

    def messages(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.folder / "mail").glob("*/new/*")]

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for file in (self.folder / "mail").glob("*/new/*"):
            head, _, body = file.read_bytes().partition(b"\n\n")
            sender = re.search(rb"(?m)^Return-Path: <(.*)>$", head)
            assert sender is not None, head
            found.append((sender[1].decode(), file.parent.parent.name, body))
        return found


_DOVECOT = """\
base_dir = FOLDER/run
state_dir = FOLDER/state
log_path = FOLDER/log
protocols = lmtp
listen = 127.0.0.1
hostname = server.example
default_login_user = nobody
default_internal_user = nobody
default_internal_group = nogroup
ssl = yes
ssl_cert = <FOLDER/certificate.pem
ssl_key = <FOLDER/certificate.pem
mail_location = maildir:FOLDER/mail/%u:INDEX=MEMORY
mail_fsync = never
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
first_valid_gid = 1
passdb {
  driver = passwd-file
  deny = yes
  args = username_format=%{if;%n;*;REFUSED_PREFIX*;refused;other} FOLDER/refused
}
passdb {
  driver = static
  args = nopassword=yes
}
userdb {
  driver = static
  args = uid=mail gid=mail home=FOLDER/mail
}
service auth {
  user = root
}
service lmtp {
LISTENERS
}
"""
