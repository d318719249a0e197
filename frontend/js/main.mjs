// @ts-check
/** The page: live, or the summary of the recording that its address names. */
import { startLedger } from './ledger.mjs';
import { startLive } from './live.mjs';
import { startSummary } from './summary.mjs';

startLedger();
const recording = new URLSearchParams(location.search).get('recording');
if (recording) startSummary(recording);
else startLive();
