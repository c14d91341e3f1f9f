"""Mail servers of the field, started for a test: Postfix and Exim, from the system's packages.

Each runs on free ports of the loopback with a configuration of its own in a temporary folder, and
is stopped by the process id that it was started with. One port for each way the server is to
behave: plain, TLS from the first byte, two seconds of patience, refusals after DATA.
A log comes from other processes, and late where the machine is busy: who wants to know what it
says of a test has to wait until the server is done with the connections (`settled_log`).
Both must be started as root, since they change to their own users; those users need no rights
but in the temporary folder.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import trustme

PORTS = ("plain", "tls", "impatient", "no data", "no body", "harsh")
SIZE_LIMIT = 30_000_000
"""Octets of the largest message that either server takes."""

REFUSED = "refused"
"""Local parts that begin with this are refused, in MAIL and in RCPT."""


COMPLAINT = re.compile(
    r"improper command|synchroni[sz]ation|non-SMTP|unrecognized|lost connection after (?!CONNECT)"
    r"|too many|unexpected disconnection|lost while reading|bare ",
    re.IGNORECASE,
)
"""What a log says of a client without manners."""


SETTLING = 10.0
"""Seconds after which a connection is taken to be left open on purpose."""


class Unavailable(Exception):
    """The server cannot be run here; the text says why."""


class RealServer:
    """A server that `start` runs and `close` ends.

    Attributes:
        ports: a port for each of `PORTS`.
        authority: the certificate, in PEM, of who vouches for the server.
    """

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    begun: ClassVar[re.Pattern[str]]
    ended: ClassVar[re.Pattern[str]]
    """The first and the last that is logged of a connection, with the client's port as group."""

    def __init__(self) -> None:
        self.program = self._find()
        if os.geteuid() != 0:
            raise Unavailable(f"{self.name} can be started by root alone")
        self.ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self.process: subprocess.Popen[bytes] | None = None
        self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o755)  # the server's own user must come through
        authority = trustme.CA()
        self.authority = authority.cert_pem.bytes()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        self.certificate = self.folder / "certificate.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        self.certificate.chmod(0o644)
        self.configure()

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop()
        self._temporary.cleanup()

    @classmethod
    def _find(cls) -> str:
        for name in cls.programs:
            program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
            if program and cls.runs(program):
                return program
        raise Unavailable(f"no {cls.name} that runs on this machine")

    @classmethod
    def runs(cls, program: str) -> bool:
        raise NotImplementedError

    def configure(self) -> None:
        raise NotImplementedError

    def command(self) -> list[str]:
        """The command that serves in the foreground."""
        raise NotImplementedError

    def messages(self) -> list[bytes]:
        """The messages taken so far, with LF, in no order."""
        raise NotImplementedError

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        """Sender, recipient and body (with LF) of each message and recipient taken so far.

        Mail to example.com alone is sure to be among them.
        """
        raise NotImplementedError

    def log(self) -> str:
        """All that the server has logged."""
        files = sorted(self.folder.glob("log*"))
        return "".join(file.read_text(errors="replace") for file in files)

    def settled_log(self) -> str:
        """The log, once it has the last word on each connection that was greeted before.

        A connection of our own is the mark: its first line comes behind those of all others.
        """
        with socket.create_connection(("127.0.0.1", self.ports["plain"]), SETTLING) as mark:
            port = str(mark.getsockname()[1])
            mark.recv(1000)
            mark.sendall(b"QUIT\r\n")
            mark.recv(1000)
        deadline = time.monotonic() + SETTLING
        while True:
            log = self.log()
            recent = log[self._started_at :]
            begun, ended = (Counter(each.findall(recent)) for each in (self.begun, self.ended))
            if (port in begun and not begun - ended) or time.monotonic() > deadline:
                return log
            time.sleep(0.01)

    def start(self) -> None:
        self._started_at = len(self.log())
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + 10
        for port in self.ports.values():
            while not _listens(port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    said = (self.folder / "output").read_text() + self.log()
                    raise Unavailable(f"{self.name} does not start here: {said[-500:]}")
                time.sleep(0.05)

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Postfix(RealServer):
    """Postfix, with a master.cf of one smtpd for each port and a Maildir behind them."""

    name = "Postfix"
    programs = ("postfix",)
    begun = re.compile(r": connect from \S+:(\d+)$", re.MULTILINE)
    ended = re.compile(r": disconnect from \S+:(\d+) ")

    @classmethod
    def runs(cls, program: str) -> bool:
        return _succeeds([str(Path(program).with_name("postconf")), "-d", "mail_version"])

    def configure(self) -> None:
        self.settings, queue, data, mail = (
            self.folder / name for name in ("postfix", "queue", "data", "mail")
        )
        for each in (self.settings, queue, data, mail):
            each.mkdir()
        for each in (data, mail):
            shutil.chown(each, "postfix")
        access = self.settings / "access"
        access.write_text(f"/^{REFUSED}/ 550 5.1.1 we do not like the name\n")
        parameters = {
            "compatibility_level": "3.6",
            "queue_directory": queue,
            "data_directory": data,
            "maillog_file": self.folder / "log",
            "maillog_file_prefixes": self.folder,
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "myhostname": "server.example",
            "mydestination": "",
            "alias_maps": "",
            "mynetworks": "127.0.0.0/8",
            "message_size_limit": SIZE_LIMIT,
            "virtual_mailbox_limit": 0,
            "mailbox_size_limit": 0,
            "smtpd_delay_reject": "no",  # a refused sender is refused in reply to MAIL
            "smtpd_sender_restrictions": f"check_sender_access regexp:{access}",
            "smtpd_recipient_restrictions": f"check_recipient_access regexp:{access},"
            " permit_mynetworks, reject",
            "transport_maps": "inline:{discard.example=discard:}",
            "virtual_mailbox_domains": "example.com",
            "virtual_mailbox_base": mail,
            "virtual_mailbox_maps": "static:all/",
            "virtual_uid_maps": f"static:{mail.stat().st_uid}",
            "virtual_gid_maps": f"static:{max(100, mail.stat().st_gid)}",
            "smtpd_client_port_logging": "yes",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": self.certificate,
            "smtpd_tls_key_file": self.certificate,
        }
        lines = (f"{name} = {value}\n" for name, value in parameters.items())
        (self.settings / "main.cf").write_text("".join(lines))
        services = [f"{name} {rest}" for name, rest in _POSTFIX_SERVICES.items()]
        for name, options in _POSTFIX_PORTS.items():
            overrides = "".join(f" -o {{{option}}}" for option in options)
            services.append(f"127.0.0.1:{self.ports[name]} inet n - n - - smtpd{overrides}")
        (self.settings / "master.cf").write_text("\n".join(services) + "\n")

    def command(self) -> list[str]:
        # start-fg, and the queue's folders made on the way.
        return [self.program, "-c", str(self.settings), "start-fg"]

    def messages(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.folder / "mail" / "all" / "new").glob("*")]

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for message in self.messages():
            head, _, body = message.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\n") if ": " in line)
            found.append((fields["Return-Path"].strip("<>"), fields["Delivered-To"], body))
        return found

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            command = [self.program, "-c", str(self.settings), "stop"]
            subprocess.run(command, check=False, capture_output=True, timeout=20)
        super().stop()


_POSTFIX_SERVICES = {
    "pickup": "unix n - n 60 1 pickup",
    "cleanup": "unix n - n - 0 cleanup",
    "qmgr": "unix n - n 300 1 qmgr",
    "tlsmgr": "unix - - n 1000? 1 tlsmgr",
    "rewrite": "unix - - n - - trivial-rewrite",
    "bounce": "unix - - n - 0 bounce",
    "defer": "unix - - n - 0 bounce",
    "trace": "unix - - n - 0 bounce",
    "verify": "unix - - n - 1 verify",
    "proxymap": "unix - - n - - proxymap",
    "error": "unix - - n - - error",
    "discard": "unix - - n - - discard",
    "virtual": "unix - n n - - virtual",
    "anvil": "unix - - n - 1 anvil",
    "postlog": "unix-dgram n - n - 1 postlogd",
}
_POSTFIX_PORTS: Mapping[str, Iterable[str]] = {
    "plain": ["smtpd_data_restrictions=reject_unauth_pipelining"],
    "tls": ["smtpd_tls_wrappermode=yes"],
    "impatient": ["smtpd_timeout=2s"],
    "no data": ["smtpd_data_restrictions=reject"],
    "no body": ["smtpd_end_of_data_restrictions=reject"],
    "harsh": ["smtpd_hard_error_limit=5", "smtpd_error_sleep_time=0", "message_size_limit=100000"],
}


class Exim(RealServer):
    """Exim's daemon, which leaves on its spool what it takes."""

    name = "Exim"
    programs = ("exim4", "exim")
    begun = re.compile(r" SMTP connection from \[\S+\]:(\d+) .*\(TCP/IP connection count")
    ended = re.compile(
        r"(?:connection|call) from (?:.* )?\[[\d.]+\]:(\d+) I=.*"
        r"(?:lost|closed by|closed after|dropped|refused|timeout|handshake)"
    )

    @classmethod
    def runs(cls, program: str) -> bool:
        return _succeeds([program, "-C", "/dev/null", "-bV"])

    def configure(self) -> None:
        spool = self.folder / "spool"
        spool.mkdir()
        said = subprocess.run(
            [self.program, "-C", "/dev/null", "-bP", "exim_user"],
            check=True,
            capture_output=True,
            text=True,
        )
        shutil.chown(spool, said.stdout.split("=")[1].strip())
        shutil.chown(self.folder, said.stdout.split("=")[1].strip())
        addresses = " ; ".join(f"[127.0.0.1]:{port}" for port in self.ports.values())
        text = _EXIM.format(
            addresses=addresses,
            spool=spool,
            log=self.folder / "log-%s",
            certificate=self.certificate,
            refused=REFUSED,
            size=SIZE_LIMIT,
            **{name.replace(" ", "_"): port for name, port in self.ports.items()},
        )
        (self.folder / "exim.conf").write_text(text)

    def command(self) -> list[str]:
        return [self.program, "-C", str(self.folder / "exim.conf"), "-bdf"]

    def messages(self) -> list[bytes]:
        spool = self.folder / "spool" / "input"
        return [file.read_bytes().partition(b"\n")[2] for file in spool.rglob("*-D")]

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for file in (self.folder / "spool" / "input").rglob("*-H"):
            lines = file.read_text().split("\n")
            # The envelope's end: the tree of those that have it already, of which there are none.
            count = lines.index("XX") + 1
            recipients = lines[count + 1 : count + 1 + int(lines[count])]
            content = file.with_name(file.name[:-1] + "D").read_bytes().partition(b"\n")[2]
            found += [(lines[2].strip("<>"), recipient, content) for recipient in recipients]
        return found


_EXIM = """\
local_interfaces = <; {addresses}
spool_directory = {spool}
log_file_path = {log}
primary_hostname = server.example
pid_file_path =
queue_only = true
process_log_path = {spool}/process
message_size_limit = ${{if eq{{$received_port}}{{{harsh}}}{{100000}}{{{size}}}}}
write_rejectlog = false
host_lookup =
rfc1413_query_timeout = 0s
recipients_max = 2000
smtputf8_advertise_hosts = *
pipelining_connect_advertise_hosts =
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {certificate}
tls_on_connect_ports = {tls}
smtp_receive_timeout = ${{if eq{{$received_port}}{{{impatient}}}{{2s}}{{5m}}}}
log_selector = +all
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt
acl_smtp_predata = predata
acl_smtp_data = body
smtp_max_unknown_commands = 3
smtp_accept_max_per_connection = ${{if eq{{$received_port}}{{{harsh}}}{{5}}{{1000}}}}
begin acl
mail:
  deny message = we do not like the name
       senders = ^{refused}.*
  accept
rcpt:
  deny message = we do not like the name
       local_parts = ^{refused}.*
  accept
predata:
  deny message = no data here
       condition = ${{if eq{{$received_port}}{{{no_data}}}}}
  accept
body:
  deny message = no body here
       condition = ${{if eq{{$received_port}}{{{no_body}}}}}
  accept
begin routers
all:
  driver = accept
  transport = nowhere
begin transports
nowhere:
  driver = appendfile
  file = /dev/null
"""


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0
    except OSError:
        return False
