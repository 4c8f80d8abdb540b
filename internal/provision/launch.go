package provision

import (
	"context"
	"strings"
)

// orphan ends a microVM whose gitlab-runner has ended and that nobody has turned off since: whoever watched it is dead.
const orphan = `/bin/sh -c "sleep 30; systemctl reboot --force --force"`

// launch starts gitlab-runner as the job's user, away from our login: under systemd where there is one, which would end
// it with the session otherwise, else under nohup. A shell of root's, the keeper, waits for it and writes down how it
// ended. It also removes the configuration with the token as soon as it has been read: before a job can begin.
func (g *guest) launch(ctx context.Context) error {
	var command strings.Builder
	for _, word := range g.Arguments(g.Start, settingsFile) {
		command.WriteString(" " + quoted(word))
	}
	keeper := `umask 022
echo $$ > ` + keeperFile + `
cd /home/` + jobUser + `
setpriv --reuid ` + jobUser + ` --regid ` + jobUser + ` --init-groups --no-new-privs -- \
  env -i HOME=/home/` + jobUser + ` USER=` + jobUser + ` LOGNAME=` + jobUser + ` LANG=C.UTF-8 \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  ` + program + command.String() + ` </dev/null >` + logFile + ` 2>&1 &
echo $! > ` + pidFile + `
runner=$!
( until grep -q "Starting runner for" ` + logFile + ` 2>/dev/null || ! kill -0 $runner 2>/dev/null; do sleep 0.1; done
  rm -rf ` + privateDir + ` ) &
status=0
wait $runner || status=$?
echo $status > ` + exitFile + `.new
mv ` + exitFile + `.new ` + exitFile
	// The script is a file, because systemd would take every $ of an argument for a variable of its own.
	_, err := g.step(ctx, "start gitlab-runner", "the image needs setpriv and setsid (package util-linux)", g.asRoot(`
: > `+logFile+`
cat > `+scriptFile+` <<'END OF SCRIPT'
`+keeper+`
END OF SCRIPT
if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null; then
  systemd-run --quiet --collect --unit=firerunner-job --property=ExecStopPost=`+quoted(orphan)+` sh `+scriptFile+`
else
  nohup setsid sh `+scriptFile+` </dev/null >/dev/null 2>&1 &
fi
i=0
while [ $i -lt 100 ]; do
  [ -s `+pidFile+` ] && exit 0
  sleep 0.2
  i=$((i+1))
done
echo "it did not start within 20 s" >&2
exit 1
`), nil)
	return err
}
