// The shapes of the REST API that the components read; see docs/api.md.

export interface Forecast {
  total_s: number;
  low_s?: number | null;
  high_s?: number | null;
  peak_gib: number;
  disk_bytes: number;
}

export interface Progress {
  stage: string;
  window: number;
  windows: number;
  step: number;
  steps: number;
  fraction: number;
  eta_s: number | null;
  eta_reason?: string;
  frames_ready: number;
  saved_at: number | null;
}

export interface Artifact {
  video: string;
  thumbnail: string;
  width: number;
  height: number;
  frames: number;
  fps: number;
  bytes: number;
  model: string;
  engine: string;
  render_s: number;
  draft?: boolean;
}

export interface JobError {
  code: string;
  message: string;
  hint: string;
  log: string[];
}

export interface Plan {
  model: string;
  model_title: string;
  width: number;
  height: number;
  render_width: number;
  render_height: number;
  enlarged: boolean;
  num_frames: number;
  total_frames: number;
  source_frames: number;
  render_frames: number;
  fps: number;
  num_inference_steps: number;
  guidance_scale: number;
  window_steps: number[];
  windows: unknown[];
  notes: string[];
  unknown_words: string[];
  forecast: Forecast;
  forecast_s: number;
}

export type State =
  | "queued"
  | "running"
  | "paused"
  | "succeeded"
  | "failed"
  | "cancelled"
  | "quarantined"
  | "unreadable";

export interface Job {
  id: string;
  kind: string;
  parent: string | null;
  batch: string | null;
  title: string;
  state: State;
  request: Record<string, any>;
  plan: Plan;
  progress: Progress | null;
  attempts: number;
  error: JobError | null;
  artifact: Artifact | null;
  favourite: boolean;
  rating: number | null;
  note: string | null;
  approved: boolean;
  collections: string[];
  trashed_at: number | null;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
}

/** A finished video as `GET /videos` lists it. */
export interface VideoCard {
  id: string;
  title: string;
  width: number;
  height: number;
  seconds: number;
  fps: number;
  frames: number;
  favourite: boolean;
  draft: number | null;
  model: string;
  model_title: string;
  mode: string;
  parent: string | null;
  batch: string | null;
  finished_at: number;
  bytes: number;
  seed: number;
  collections: string[];
  rating: number | null;
  approved: boolean;
}

/** A model on its way from the hub; bytes are 0 until the hub has listed its files. */
export interface Download {
  id: string;
  title: string;
  state: "queued" | "running" | "paused" | "failed";
  bytes_done: number;
  bytes_total: number;
  bytes_per_s: number;
  fraction: number;
  eta_s: number | null;
  error: string | null;
}

/** A row of `GET /models`. */
export interface ModelRow {
  id: string;
  title: string;
  about: string;
  modes: string[];
  denoises: boolean;
  licence: string;
  licence_url: string | null;
  card_url: string | null;
  present: boolean;
  removable: boolean;
  trashed: boolean;
  fits: boolean;
  fit: string;
  forecast: Omit<Forecast, "disk_bytes"> & { width: number; height: number; num_frames: number; fps: number };
  bytes: number | null;
  download_bytes: number | null;
}

/** The answer of `GET /models?all=true`. */
export interface ModelList {
  models: ModelRow[];
  refused: Record<string, string>;
  recommended: { model: string; why: string };
  automatic: string | null;
  trashed: { id: string; title: string }[];
  offline: boolean;
  disk_free_bytes: number;
}

/** A row of `GET /loras`; `fits` has the reason why it does not fit for each installed model. */
export interface LoraRow {
  name: string;
  bytes: number;
  layers: number;
  ranks: number[];
  notes: string[];
  base_model_hint: string;
  trigger_words: string[];
  fits: Record<string, string | null>;
  removable: boolean;
}

/** What Streamlit hands to a component, see st.components.v2. */
export interface Component<Data> {
  parentElement: ShadowRoot;
  data: Data;
  key: string;
  setTriggerValue: (name: string, value: unknown) => void;
  setStateValue: (name: string, value: unknown) => void;
}
