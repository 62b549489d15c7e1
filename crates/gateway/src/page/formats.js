// Figures as text.

const whole = (n) => figure(Math.round(n));
const perSecond = (n) => (n >= 10 || n === 0 ? whole(n) : (Math.round(n * 10) / 10).toLocaleString("en"));
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const compact = (n) => short.format(n).replace("K", "k");

function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 999.5 && unit < units.length - 1) { n /= 1000; unit++; }
  return `${n >= 10 || unit === 0 ? Math.round(n) : Math.round(n * 10) / 10} ${units[unit]}`;
}

function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toLocaleString("en", { maximumFractionDigits: 1 })} s`;
  return `${ms >= 100 ? Math.round(ms) : ms >= 10 ? Math.round(ms * 10) / 10 : Math.round(ms * 100) / 100} ms`;
}

function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes && seconds % 60 === 0) return `${minutes} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

function timeOfDay(time, seconds) {
  return new Date(time).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });
}
