package provision

import (
	"context"
	"strings"
)

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
	_, err := g.step(ctx, "start gitlab-runner", "the image needs setpriv and setsid (package util-linux)", g.asRoot(`
: > `+logFile+`
if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null; then
  systemd-run --quiet --collect --unit=firerunner-job sh -c `+quoted(keeper)+`
else
  nohup setsid sh -c `+quoted(keeper)+` </dev/null >/dev/null 2>&1 &
fi
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  [ -s `+pidFile+` ] && exit 0
  sleep 0.2
done
echo "it did not start within 4 s" >&2
exit 1
`), nil)
	return err
}
