"""What commands printed, kept for the very program that printed it: an interrupted run goes on where it was. Used by tools/results."""
import hashlib
import json
import os
import subprocess


def digest(*paths):
    own = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            own.update(f.read())
    return own.hexdigest()


class Kept:
    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def path(self, program_digest, arguments):
        key = hashlib.sha256(json.dumps([program_digest, arguments]).encode()).hexdigest()
        return os.path.join(self.folder, key[:24] + ".json")

    def load(self, path):
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as f:
            return json.load(f)

    def save(self, path, value):
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            json.dump(value, f)
        os.replace(path + ".tmp", path)
        return value

    def printed(self, program_digest, command, name, seconds, cwd=None, ends=(0,)):
        """Standard output of a command that ends with one of these codes. name: under which it is kept."""
        path = self.path(program_digest, name)
        found = self.load(path)
        if found is not None:
            return found
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode not in ends:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-500:]}")
        return self.save(path, done.stdout)
